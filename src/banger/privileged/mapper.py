"""Device-mapper by the ioctls of linux/dm-ioctl.h: no program runs to make or remove a device.

A device is named, given a table, and resumed, which is when the table takes effect; dmsetup(8)
calls all three "create". Nothing waits for udev: device numbers are all that is used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator

from banger.privileged.faults import Fault, FaultCode, failed

_CONTROL = "/dev/mapper/control"
# struct dm_ioctl: version, size of all and where what follows it begins, targets, opened, flags,
# event, padding; device number; name, uuid, and 7 bytes more.
_HEADER = "=3IIIIiIIIQ128s129s7s"
_VERSION = (4, 0, 0)
# struct dm_target_spec: start, length; status, offset of the next; type. A string follows it.
_TARGET = "=QQiI16s"
_ALIGNMENT = 8

_CREATE, _REMOVE, _RESUME, _LOAD = 3, 4, 6, 9
_NAME_BYTES, _UUID_BYTES, _TYPE_BYTES = 127, 128, 15

# udev, or whoever else looks at every new device, has it open for a moment.
_REMOVALS, _REMOVAL_PAUSE = 25, 0.2


def create(name: str, uuid: str, table: str) -> str:
    """Make the device `name` of `table`, lines as dmsetup(8) takes them; its `major:minor`.

    Raises Fault(failed); then there is no such device.
    """
    with _control() as control:
        _ask(control, _CREATE, name, uuid=uuid)
        try:
            _ask(control, _LOAD, name, targets=_targets(table))
            number = _ask(control, _RESUME, name)
        except BaseException:
            with contextlib.suppress(Fault):
                _ask(control, _REMOVE, name)

            raise

    return f"{os.major(number)}:{os.minor(number)}"


def remove(name: str) -> None:
    """Remove the device `name`. Raises Fault: busy while something has it open, failed."""
    with _control() as control:
        for left in reversed(range(_REMOVALS)):
            try:
                _ask(control, _REMOVE, name)
            except Fault as fault:
                if fault.code is not FaultCode.BUSY or left == 0:
                    raise
            else:
                return

            time.sleep(_REMOVAL_PAUSE)


@contextlib.contextmanager
def _control() -> Iterator[int]:
    try:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise failed("the kernel has no device-mapper: modprobe dm_mod") from None
    try:
        yield control
    finally:
        os.close(control)


def _ask(
    control: int, command: int, name: str, *, uuid: str = "", targets: tuple[bytes, ...] = ()
) -> int:
    """Do `command`; the number of the device. Raises Fault: busy, failed."""
    message = bytearray(request(name, uuid, targets))
    try:
        fcntl.ioctl(control, _number(command), message)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Fault(FaultCode.BUSY, f"device {name} is in use") from None

        raise failed(f"device {name}: {error.strerror}") from None
    number: int = struct.unpack_from(_HEADER, message)[10]
    return device_number(number)


def request(name: str, uuid: str, targets: tuple[bytes, ...]) -> bytes:
    """A struct dm_ioctl with what follows it."""
    if len(name) > _NAME_BYTES or len(uuid) > _UUID_BYTES:
        raise failed(f"device {name}: the name is too long")

    start = _aligned(struct.calcsize(_HEADER))
    size = start + sum(map(len, targets))
    head = (*_VERSION, size, start, len(targets), 0, 0, 0, 0, 0)
    packed = struct.pack(_HEADER, *head, name.encode(), uuid.encode(), b"")
    return packed.ljust(start, b"\0") + b"".join(targets)


def _targets(table: str) -> tuple[bytes, ...]:
    return tuple(target(*line.split(" ", 3)) for line in table.splitlines())


def target(start: str, length: str, kind: str, arguments: str = "") -> bytes:
    """A struct dm_target_spec and its string, as long as it says itself."""
    text = arguments.encode() + b"\0"
    size = _aligned(struct.calcsize(_TARGET) + len(text))
    head = struct.pack(_TARGET, int(start), int(length), 0, size, kind.encode()[:_TYPE_BYTES])
    return (head + text).ljust(size, b"\0")


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _number(command: int) -> int:
    """_IOWR(0xfd, command, struct dm_ioctl) of asm-generic/ioctl.h."""
    return 3 << 30 | struct.calcsize(_HEADER) << 16 | 0xFD << 8 | command


def device_number(number: int) -> int:
    """As in st_rdev: huge_encode_dev() of linux/kdev_t.h has 12 bits of the major in the middle."""
    return os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)
