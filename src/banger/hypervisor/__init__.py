"""The VMM seam: start, find, watch and stop the process that is a VM.

`base` is the contract, `qemu/` the embedded path's implementation, `firecracker/` the installed
host's. Imports channel and privileged (operations, never how they are done), host and api; the
daemon joins it to its siblings (network, storage, image, guest).
"""
