"""cpio archives in the "newc" format, as the kernel unpacks them into its initial RAM file system.

The format is written down in the kernel's Documentation/driver-api/early-userspace/
buffer-format.rst. Archives of the same entries are the same bytes: no times, owners or inode
numbers of the host get in.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_FIELD_MAX = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """One member: `name` is relative to the root, `mode` as in stat(2), `data` a link's target."""

    name: str
    mode: int
    data: bytes = b""


def directory(name: str, mode: int = 0o755) -> Entry:
    return Entry(name, stat.S_IFDIR | mode)


def file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    return Entry(name, stat.S_IFREG | mode, data)


def symlink(name: str, target: str) -> Entry:
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of `entries` in their order; a directory has to come before what is in it.

    Its length is a multiple of four, so archives may be joined end to end.
    """
    members = b"".join(_member(entry, number) for number, entry in enumerate(entries, start=1))
    return members + _member(Entry(_TRAILER, 0), 0)


def _member(entry: Entry, inode: int) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    if len(entry.data) > _FIELD_MAX:
        raise ValueError(f"{entry.name} is too big for a newc archive")
    header = _MAGIC + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
