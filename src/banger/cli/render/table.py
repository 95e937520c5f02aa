"""Tables and the short forms of times and places in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest entry, two spaces between them."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    layout = "  ".join(f"{{:<{width}}}" for width in widths)
    return "\n".join(layout.format(*line).rstrip() for line in lines)


def fields(pairs: Iterable[tuple[str, str]]) -> str:
    """One `name  value` line for each pair."""
    pairs = list(pairs)
    width = max((len(name) for name, _ in pairs), default=0)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in pairs)


def duration(seconds: float) -> str:
    """`seconds` in the largest unit that fits: `42s`, `5m`, `3h`, `12d`."""
    seconds = max(0, int(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"

    return f"{seconds}s"


def moment(unix_time: float | None) -> str:
    """A time in the local zone, to the second; `-` for one that is not known."""
    if unix_time is None:
        return "-"

    from time import localtime, strftime

    return strftime("%Y-%m-%d %H:%M:%S", localtime(unix_time))
