"""Sizes as people write them: `512M`, `4G`, `4GiB`; a bare number is MiB."""

from __future__ import annotations

import re

from banger.api.errors import CallerError, ErrorCode

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_UNITS = {"": MIB, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"(\d{1,18})(?:([KMGT])(?:I?B)?)?\Z", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes meant by `text`. All units are binary. Raises CallerError(invalid_size)."""
    match = _SIZE.match(text.strip())
    if match is None or int(match[1]) == 0:
        raise CallerError(
            ErrorCode.INVALID_SIZE,
            f"{text!r} is not a size",
            hint="write a number above zero with K, M, G or T, like 512M or 4G (no unit means MiB)",
        )
    return int(match[1]) * _UNITS[(match[2] or "").upper()]


def parse_rate(text: str) -> int:
    """Bytes a second meant by `text`, a size or 0 for any number. Raises CallerError."""
    return 0 if text.strip() == "0" else parse_size(text)


def format_size(size: int) -> str:
    """`size` bytes for people, in the largest unit that keeps it at or above one: `1.5G`."""
    value = float(size)
    for unit in ("B", "K", "M", "G"):
        if value < KIB:
            return f"{value:.1f}".removesuffix(".0") + unit
        value /= KIB
    return f"{value:.1f}T"
