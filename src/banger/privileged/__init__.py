"""What needs root, and nothing else: a closed list of typed operations, each behind its gates.

`ops` and `codec` are the protocol, `gates/` decides what a request may touch, the modules beside
them do it, `helper` serves it to the owner of the installation. All of that is the standard library
alone and imports nothing of banger outside this folder, so that one person can read what runs as
root in an hour. `client` and `direct` are the daemon's side (`base` is its contract) and import
host and api. docs/privileges.md describes the whole.
"""
