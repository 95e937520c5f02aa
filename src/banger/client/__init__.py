"""Talks to the daemon over its unix socket; starts the embedded daemon when there is none.

The Python SDK and what the CLI uses: `connect()` in `autostart` returns a `Client`. Imports host
(paths, starting a program) and api. Kept light: its import time is part of every command.
"""
