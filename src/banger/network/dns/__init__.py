"""The `.vm` names: a small authoritative DNS server that never asks anybody else.

`wire` reads questions and writes answers, `zone` knows what is true, `limits` who may ask how
often, `server` has the sockets. docs/network.md says why this is not dnspython.
"""
