"""The two streams: results on standard output, everything said about them on standard error."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import msgspec

DIM = "2"
RED = "31"
GREEN = "32"
YELLOW = "33"


def out(text: str) -> None:
    """Write a result and a newline."""
    if sys.stdout is not None:
        sys.stdout.write(text + "\n")


def out_bytes(data: bytes) -> None:
    """Write a piece of a result as it is, at once."""
    if sys.stdout is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def out_json(value: object) -> None:
    """Write a result as JSON with every field there, null when unknown."""
    out(msgspec.json.format(msgspec.json.encode(complete(value)), indent=2).decode())


def note(text: str) -> None:
    """Say something on standard error."""
    # Where nobody can be told, there is nobody to complain to either.
    with suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def complete(value: object) -> object:
    """`value` with structs as dicts of all their fields; the wire leaves defaults out."""
    if isinstance(value, msgspec.Struct):
        return {name: complete(getattr(value, name)) for name in value.__struct_fields__}

    if isinstance(value, list | tuple):
        return [complete(item) for item in value]

    return value


def paint(text: str, colour: str, descriptor: int = 1) -> str:
    """`text` in `colour` on a terminal, unless NO_COLOR (https://no-color.org) is set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not os.isatty(descriptor):
        return text

    return f"\x1b[{colour}m{text}\x1b[0m"
