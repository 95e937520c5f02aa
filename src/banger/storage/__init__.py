"""The disk seam: root disks over a shared read-only image, and the separate work disk.

Never mounts anything: ext4 is made, grown and checked with e2fsprogs on files the owner owns.
Imports host and api.
"""
