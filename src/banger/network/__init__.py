"""The network seam: how a guest is reached and what it may reach.

`base` is the contract, `usermode` the embedded path's implementation, `bridge/` and `dns/` the
installed host's. Imports privileged (as operations, never how they are done), host and api.
"""
