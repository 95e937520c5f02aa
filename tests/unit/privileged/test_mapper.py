"""Messages to device-mapper, read back as the kernel reads them; real devices are in smoke/."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.privileged import mapper
from banger.privileged.faults import Fault

HEADER, SPEC = "=3IIIIiIIIQ128s129s7s", "=QQiI16s"
LINES = st.tuples(
    st.integers(0, 2**40),
    st.integers(1, 2**40),
    st.sampled_from(["linear", "snapshot", "zero"]),
    st.text("0123456789: P", max_size=60).map(str.strip),
)


def targets(message: bytes) -> list[tuple[int, int, str, str]]:
    """As dm_table_create of drivers/md/dm-ioctl.c goes through them."""
    _, _, _, size, at, count, *_ = struct.unpack_from(HEADER, message)
    assert size == len(message)
    found = []
    for _ in range(count):
        assert at % 8 == 0
        start, length, _, following, kind = struct.unpack_from(SPEC, message, at)
        text = message[at + struct.calcsize(SPEC) : at + following]
        found.append((start, length, kind.rstrip(b"\0").decode(), text.split(b"\0")[0].decode()))
        at += following

    assert at == size
    return found


@given(st.lists(LINES, min_size=1, max_size=4))
def test_a_table_arrives_whole(lines: list[tuple[int, int, str, str]]) -> None:
    packed = tuple(mapper.target(str(a), str(b), kind, text) for a, b, kind, text in lines)

    assert targets(mapper.request("fc-rootfs-x", "", packed)) == lines


def test_a_device_has_the_name_and_uuid_that_were_given() -> None:
    fields = struct.unpack_from(HEADER, mapper.request("fc-rootfs-x", "BANGER-x", ()))

    assert fields[:3] == (4, 0, 0)
    assert fields[11].rstrip(b"\0") == b"fc-rootfs-x"
    assert fields[12].rstrip(b"\0") == b"BANGER-x"


def test_names_that_do_not_fit_are_refused() -> None:
    for name, uuid in (("x" * 128, ""), ("x", "y" * 129)):
        with pytest.raises(Fault):
            mapper.request(name, uuid, ())


@given(st.integers(0, 2**12 - 1), st.integers(0, 2**20 - 1))
def test_device_numbers_are_read_as_the_kernel_writes_them(major: int, minor: int) -> None:
    encoded = minor & 0xFF | major << 8 | (minor & ~0xFF) << 12

    assert mapper.device_number(encoded) == os.makedev(major, minor)
