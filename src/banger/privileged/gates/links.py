"""Network interfaces: really a bridge or a tap, and marked by banger when it made them.

The mark is the interface's alias, which only an administrator of the network can set.
"""

from __future__ import annotations

from pathlib import Path

from banger.privileged.faults import refused

MARK = "banger"
_INTERFACES = Path("/sys/class/net")
# IFF_TAP in linux/if_tun.h.
_TAP_FLAG = 0x0002


def present(name: str) -> bool:
    """Whether there is any interface called `name`."""
    return (_INTERFACES / name).exists()


def require_bridge(name: str) -> None:
    """Raise unless the interface `name` is a bridge of banger's."""
    if not is_marked_bridge(name):
        raise refused(f"{name} is not a bridge that banger made")


def is_marked_bridge(name: str) -> bool:
    """Whether the interface `name` is a bridge of banger's."""
    return (_INTERFACES / name / "bridge").is_dir() and _read(name, "ifalias") == MARK


def require_tap(name: str, owner: int) -> None:
    """Raise unless the interface `name` is a tap that banger made for `owner`."""
    if not is_tap_of(name, owner) or _read(name, "ifalias") != MARK:
        raise refused(f"{name} is not a tap that banger made")


def is_tap_of(name: str, owner: int) -> bool:
    """Whether the interface `name` is a tap that `owner` may open, marked or not."""
    flags = _read(name, "tun_flags")
    return bool(flags) and int(flags, 16) & _TAP_FLAG != 0 and _read(name, "owner") == str(owner)


def marked(kind: str) -> tuple[str, ...]:
    """Names of all interfaces with banger's mark that have a sysfs entry `kind`."""
    return tuple(
        sorted(
            entry.name
            for entry in _INTERFACES.iterdir()
            if (entry / kind).exists() and _read(entry.name, "ifalias") == MARK
        )
    )


def ports(bridge: str) -> tuple[str, ...]:
    """The interfaces that are attached to `bridge`."""
    return tuple(sorted(entry.name for entry in (_INTERFACES / bridge / "brif").iterdir()))


def _read(name: str, attribute: str) -> str:
    try:
        return (_INTERFACES / name / attribute).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
