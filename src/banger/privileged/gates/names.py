"""Names: only of the patterns that banger itself gives, in lengths that the kernel takes.

Python's `$` also matches before a final newline; `fullmatch` is used throughout.
"""

from __future__ import annotations

import re

from banger.privileged.faults import refused

TAP_PREFIX = "tap-fc-"
SNAPSHOT_PREFIX = "fc-rootfs-"

# IFNAMSIZ is 16 with the terminating zero.
_BRIDGE = re.compile(r"br-fc(-[a-z0-9]{1,9})?", re.ASCII)
_TAP = re.compile(TAP_PREFIX + r"[a-z0-9]{1,8}", re.ASCII)
_SNAPSHOT = re.compile(SNAPSHOT_PREFIX + r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?", re.ASCII)
# jailer: letters, digits and hyphens, at most 64.
_JAIL = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?", re.ASCII)
_FILE = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", re.ASCII)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)


def bridge_name(name: str) -> str:
    """`br-fc`, or `br-fc-` and up to nine letters and digits."""
    return _check(_BRIDGE, name, "a bridge of banger's")


def tap_name(name: str) -> str:
    """`tap-fc-` and up to eight letters and digits."""
    return _check(_TAP, name, "a tap of banger's")


def snapshot_name(name: str) -> str:
    """`fc-rootfs-` and what a jail id may be."""
    return _check(_SNAPSHOT, name, "a root disk of banger's")


def jail_id(name: str) -> str:
    """Up to 64 lower-case letters, digits and hyphens, a letter or digit at both ends."""
    return _check(_JAIL, name, "a jail's id")


def file_name(name: str) -> str:
    """One component of a path in a jail; never `.` or `..`."""
    return _check(_FILE, name, "a file name for a jail")


def mac_address(text: str) -> str:
    """Six lower-case bytes of a single, locally given station."""
    _check(_MAC, text, "a MAC address")
    # IEEE 802: the lowest bit of the first byte means a group, the next one locally administered.
    if int(text[:2], 16) & 0b11 != 0b10:
        raise refused(f"{text} is not a locally administered MAC address")

    return text


def distinct(names: tuple[str, ...], what: str) -> None:
    """Raise unless every name is there once."""
    if len(set(names)) != len(names):
        raise refused(f"the same {what} twice")


def _check(pattern: re.Pattern[str], name: str, what: str) -> str:
    if not pattern.fullmatch(name):
        raise refused(f"{name[:80]!r} is not {what}")

    return name
