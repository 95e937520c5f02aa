"""The `banger` command: parse, ask the daemon, draw, hand the terminal to ssh.

One file per command group, `render/` for tables, progress and errors. Imports client, host, api;
never touches state. Everything not needed by every command is imported where it is used.
"""
