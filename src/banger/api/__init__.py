"""The wire: request, response and event models, error codes, and the rules a name or a size obeys.

May be imported by everything; imports nothing of ours. Models are msgspec structs, so the CLI can
share them with the daemon without paying for a validation framework at start-up.
"""
