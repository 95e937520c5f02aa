"""The system path on a host: what `banger system install` puts there, looks after and removes.

`layout` says where everything goes, `units` and `files` what is in it, `tree` puts it there in a
way that can be taken back. docs/install.md is the reader's version.
"""
