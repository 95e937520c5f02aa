"""Firecracker behind the `Hypervisor` contract, each VM in a jail that the root helper makes.

model     what its API takes, as data; api: one connection to it
config    from a LaunchPlan to all of that, and to what the helper is asked for
start     launching, all of it or nothing; record: what is written down of a VMM before there is one
checkpoint, postmortem, failures, version: saving, why one ended, its errors, which ones we take
driver    the `Hypervisor`

docs/hypervisor.md has the reasons. Imports the hypervisor's own modules, channel, privileged, host.
"""
