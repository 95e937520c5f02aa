"""What goes into a guest: the initial RAM file system, its per-VM part, and the files within.

Nothing here runs on the host except the builders. Imports host and api.
"""
