"""The VMM seam: start, find, watch and stop the process that is a VM.

`base` is the contract, `qemu/` the embedded path's implementation. Imports host and api; its siblings
(network, storage, image, guest) are joined to it by the daemon.
"""
