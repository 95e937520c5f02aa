"""Loop devices by descriptor: ioctls of linux/loop.h, so that no path is looked up a second time.

A loop device made here lets go of its file by itself when its last user is gone (autoclear): there
are none to keep book of, and none left after a crash.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator

from banger.privileged.faults import failed
from banger.privileged.gates.links import MARK

_CONTROL = "/dev/loop-control"
_GET_FREE, _CONFIGURE, _GET_STATUS64 = 0x4C82, 0x4C0A, 0x4C05
_READ_ONLY, _AUTOCLEAR = 1, 4
_ATTEMPTS = 64

# struct loop_info64: device, inode, rdevice, offset, sizelimit; number, encrypt type and key size,
# flags; file name, crypt name, key; init. struct loop_config: fd, block size, that, reserved.
_INFO = "5Q4I64s64s32s2Q"
_CONFIG = f"=2I{_INFO}8Q"
_SECTOR = 512


@contextlib.contextmanager
def attached(file: int, *, readonly: bool) -> Iterator[str]:
    """`major:minor` of a loop device over the descriptor `file`, held while the block runs.

    Who opens the device within the block, as a device-mapper table does, keeps it afterwards.
    """
    device = _attach(file, configuration(file, readonly=readonly))
    try:
        number = os.fstat(device).st_rdev
        yield f"{os.major(number)}:{os.minor(number)}"
    finally:
        os.close(device)


def marked(name: str) -> bool:
    """Whether the loop device `name` (`loop3`) carries banger's mark, which only root can set."""
    try:
        device = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        info = fcntl.ioctl(device, _GET_STATUS64, bytes(struct.calcsize(f"={_INFO}")))
    except OSError as error:
        # ENXIO: no file behind it.
        if error.errno == errno.ENXIO:
            return False

        raise
    finally:
        os.close(device)
    label: bytes = struct.unpack(f"={_INFO}", info)[9]
    return label.rstrip(b"\0") == MARK.encode()


def configuration(file: int, *, readonly: bool) -> bytes:
    """A struct loop_config: `file` in whole, marked as banger's."""
    flags = _AUTOCLEAR | (_READ_ONLY if readonly else 0)
    info = (0, 0, 0, 0, 0, 0, 0, 0, flags, MARK.encode(), b"", b"", 0, 0)
    return struct.pack(_CONFIG, file, _SECTOR, *info, *[0] * 8)


def _attach(file: int, config: bytes) -> int:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            number = fcntl.ioctl(control, _GET_FREE)
            device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _CONFIGURE, config)
            except OSError as error:
                os.close(device)
                # Somebody else took the free one first.
                if error.errno != errno.EBUSY:
                    raise
            else:
                return device
    finally:
        os.close(control)
    raise failed("no free loop device")
