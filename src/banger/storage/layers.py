"""What a disk consists of: its layers, as the files themselves tell.

A qcow2 header names the layer below; nothing else records it. The layout is that of QEMU's
docs/interop/qcow2.txt. A file's format is told by its name alone and never guessed from its
content: what is in a raw file, its guest has written.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.sizes import format_size
from banger.host.files import allocated_bytes
from banger.storage.base import DiskFormat

# The most files of a chain: each costs its VMM memory, a descriptor, and reads a look.
MAX_DEPTH = 16

_LAYER = re.compile(r"[0-9a-f]{12}\.(qcow2|raw|cow)")
_SUFFIXES: dict[str, DiskFormat] = {".qcow2": "qcow2", ".cow": "cow"}

# Where QEMU puts all of interest: header, extensions and name together have less than 2 KiB.
_HEAD = 1 << 12

# magic, version, backing_file_offset, backing_file_size, cluster_bits, size
_FIXED = struct.Struct(">4sIQIIQ")
_MAGIC = b"QFI\xfb"
_INCOMPATIBLE_FEATURES, _HEADER_LENGTH = 72, 100
_LENGTH_V2, _LENGTH_V3 = 72, 104
_CLUSTER_BITS = range(9, 22)
_LONGEST_NAME = 1023

# Dirty, compression type and extended L2 entries. Corrupt and external data file are not.
_ACCEPTED_FEATURES = 0b11001

_EXTENSION = struct.Struct(">II")
_END, _BACKING_FORMAT = 0, 0xE2792ACA
_FORMATS: dict[bytes, DiskFormat] = {b"raw": "raw", b"qcow2": "qcow2"}


@dataclass(frozen=True, slots=True)
class Header:
    """What a qcow2 file says of itself: bytes the guest sees, and the file below, if any."""

    virtual_size: int
    backing: Path | None


def layer_path(directory: Path, form: DiskFormat) -> Path:
    """A name for a new layer in `directory` that none has and none ever had."""
    return directory / f"{secrets.token_hex(6)}.{form}"


def is_layer(path: Path) -> bool:
    """Whether `path` is named as `layer_path` names."""
    return _LAYER.fullmatch(path.name) is not None


def disk_format(disk: Path) -> DiskFormat:
    """The format of `disk`, which its name tells."""
    return _SUFFIXES.get(disk.suffix, "raw")


def read_header(disk: Path) -> Header:
    """The header of the qcow2 file `disk`. A VMM may be writing to it.

    Raises PermanentError(state_corrupt) when it is missing, is no sound qcow2 header, or names a
    backing file in a way banger never does.
    """
    try:
        return _parse(_head(disk))
    except OSError as error:
        raise _corrupt(disk, error.strerror or str(error)) from None
    except ValueError as error:
        raise _corrupt(disk, str(error)) from None


def backing_file(disk: Path) -> Path | None:
    """The file below `disk`; None at the bottom. Raises PermanentError(state_corrupt).

    A cow file does not say: it is over an image, which is no layer.
    """
    if disk_format(disk) == "qcow2":
        return read_header(disk).backing

    _raw_size(disk)
    return None


def virtual_size(disk: Path) -> int:
    """The size of the raw or qcow2 file `disk` as its guest sees it, in bytes.

    Raises PermanentError(state_corrupt).
    """
    if disk_format(disk) == "qcow2":
        return read_header(disk).virtual_size

    return _raw_size(disk)


def refuse_below(base: Path, size: int) -> None:
    """Raise CallerError(disk_too_small) when a root disk of `size` could not hold `base`."""
    smallest = virtual_size(base)
    if size < smallest:
        raise CallerError(
            ErrorCode.DISK_TOO_SMALL,
            f"a root disk of {format_size(size)} is too small: "
            f"the image needs {format_size(smallest)}",
            hint=f"use --root-size {format_size(smallest)} or more",
        )


def chain(top: Path) -> tuple[Path, ...]:
    """`top` and all that lies below it, in that order.

    Raises PermanentError(state_corrupt) when a file is missing or unsound, or they form a loop.
    """
    return tuple(_members(top))


def allocated(top: Path) -> int:
    """Bytes on disk that `top` and the layers below it take; no image's file system counts.

    Layers that several disks share count for each. What is below an unreadable file does not.
    """
    total = 0
    try:
        for member in _members(top):
            if member == top or is_layer(member):
                total += allocated_bytes(member)
    except PermanentError:
        # Whoever starts the VM is told; a list of VMs has to come nevertheless.
        return total

    return total


def _members(top: Path) -> Iterator[Path]:
    seen = set()
    member: Path | None = top
    while member is not None:
        if member in seen:
            raise _corrupt(top, f"{member.name} lies below itself")

        seen.add(member)
        yield member
        member = backing_file(member)


def _head(disk: Path) -> bytes:
    descriptor = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _HEAD)
    finally:
        os.close(descriptor)


def _raw_size(disk: Path) -> int:
    try:
        info = disk.stat()
    except OSError as error:
        raise _corrupt(disk, error.strerror or str(error)) from None

    if not stat.S_ISREG(info.st_mode):
        raise _corrupt(disk, "it is not a file")

    return info.st_size


def _corrupt(disk: Path, why: str) -> PermanentError:
    return PermanentError(
        ErrorCode.STATE_CORRUPT,
        f"the disk {disk} cannot be used: {why}",
        hint="put the file back from a backup, go back to a snapshot, or delete the VM",
    )


def _parse(head: bytes) -> Header:
    if len(head) < _LENGTH_V2 or not head.startswith(_MAGIC):
        raise ValueError("it is not a qcow2 file")

    _, version, name_offset, name_size, cluster_bits, size = _FIXED.unpack_from(head)
    if cluster_bits not in _CLUSTER_BITS:
        raise ValueError(f"its clusters have 2^{cluster_bits} bytes")

    cluster = head[: 1 << cluster_bits]
    extensions = _header_length(cluster, version)
    if name_offset == 0:
        return Header(size, None)

    if not extensions <= name_offset <= len(cluster) - name_size or name_size > _LONGEST_NAME:
        raise ValueError("the name of its backing file lies outside of its header")

    form = _backing_format(cluster[extensions:name_offset])
    return Header(size, _backing(cluster[name_offset : name_offset + name_size], form))


def _header_length(cluster: bytes, version: int) -> int:
    if version == 2:
        return _LENGTH_V2

    if version != 3 or len(cluster) < _LENGTH_V3:
        raise ValueError(f"it has version {version} of qcow2")

    features: int = struct.unpack_from(">Q", cluster, _INCOMPATIBLE_FEATURES)[0]
    if features & ~_ACCEPTED_FEATURES:
        raise ValueError(f"it is marked corrupt or not ours (features {features:#x})")

    length: int = struct.unpack_from(">I", cluster, _HEADER_LENGTH)[0]
    if length < _LENGTH_V3 or length % 8 or length > len(cluster):
        raise ValueError(f"its header has {length} bytes")

    return length


def _backing_format(area: bytes) -> DiskFormat:
    """The format in the header extensions `area`, without which QEMU would guess."""
    position = 0
    while position + _EXTENSION.size <= len(area):
        kind, length = _EXTENSION.unpack_from(area, position)
        position += _EXTENSION.size
        if kind == _END or length > len(area) - position:
            break

        data = area[position : position + length]
        if kind == _BACKING_FORMAT and data in _FORMATS:
            return _FORMATS[data]

        position += -(-length // 8) * 8
    raise ValueError("it does not say which format its backing file has")


def _backing(name: bytes, form: DiskFormat) -> Path:
    # QEMU takes what is not absolute for a path beside the overlay, or for a URL.
    if not name.startswith(b"/") or b"\0" in name:
        raise ValueError("its backing file is not named by an absolute path")

    backing = Path(os.fsdecode(name))
    if disk_format(backing) != form:
        raise ValueError(f"it takes its backing file {backing.name} for {form}")

    return backing
