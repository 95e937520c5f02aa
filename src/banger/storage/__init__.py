"""The disk seam: root disks over a shared read-only image, and the separate work disk.

`qcow2` and `layers` are the embedded path's root disks, `cow` the installed host's; `workdisk` and
`ext4` are for both. Never mounts anything: ext4 is made, grown and checked with e2fsprogs on files
the owner owns. Imports host and api.
"""
