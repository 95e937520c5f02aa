"""Block devices: ours by the kernel's word, and the tables that make them."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.privileged.outcome import fault_of

from banger.privileged import devicemapper, loop
from banger.privileged.faults import Fault, FaultCode
from banger.privileged.gates import devices
from banger.privileged.gates.links import MARK
from banger.privileged.ops import FlushSnapshot
from banger.privileged.site import Site

SITE = Site(owner_uid=1000, owner_gid=1000, roots=("/srv/state",), jails="/srv/jail")


class Block:
    """A directory like /sys/block, and loop devices of which some are banger's."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._top = top
        self.ours: set[str] = set()
        monkeypatch.setattr(devices, "_BLOCK", top)
        monkeypatch.setattr(loop, "marked", self.ours.__contains__)

    def mapped(self, node: str, name: str, uuid: str, *slaves: str) -> Path:
        entry = self._top / node
        (entry / "dm").mkdir(parents=True)
        (entry / "dm/name").write_text(f"{name}\n")
        (entry / "dm/uuid").write_text(f"{uuid}\n")
        (entry / "dev").write_text(f"253:{node.removeprefix('dm-')}\n")
        (entry / "slaves").mkdir()
        for slave in slaves:
            (entry / "slaves" / slave).symlink_to(f"../../{slave}")

        return entry


@pytest.fixture
def block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Block:
    return Block(tmp_path, monkeypatch)


def refusal(name: str) -> FaultCode:
    with pytest.raises(Fault) as caught:
        devices.require_snapshot(name)

    return caught.value.code


def test_a_snapshot_of_bangers_is_known_by_uuid_and_loops(block: Block) -> None:
    block.ours |= {"loop3", "loop4"}
    entry = block.mapped("dm-7", "fc-rootfs-a", "BANGER-fc-rootfs-a", "loop3", "loop4")

    assert devices.require_snapshot("fc-rootfs-a") == entry
    assert devices.number(entry) == os.makedev(253, 7)


def test_what_others_call_like_ours_is_refused(block: Block) -> None:
    block.ours |= {"loop3"}
    block.mapped("dm-1", "fc-rootfs-plain", "", "loop3")
    block.mapped("dm-2", "fc-rootfs-lvm", "LVM-fc-rootfs-lvm", "loop3")
    block.mapped("dm-3", "fc-rootfs-other", "BANGER-fc-rootfs-a", "loop3")
    block.mapped("dm-4", "fc-rootfs-disk", "BANGER-fc-rootfs-disk", "loop3", "sda1")
    block.mapped("dm-5", "fc-rootfs-loop", "BANGER-fc-rootfs-loop", "loop3", "loop9")
    block.mapped("dm-6", "fc-rootfs-below", "BANGER-fc-rootfs-below", "loop3", "dm-1")

    for name in ("plain", "lvm", "other", "disk", "loop", "below"):
        assert refusal(f"fc-rootfs-{name}") is FaultCode.REFUSED, name

    assert refusal("fc-rootfs-none") is FaultCode.NOT_FOUND
    assert refusal("vg-root") is FaultCode.REFUSED


def test_a_larger_snapshot_has_a_base_of_ours(block: Block) -> None:
    block.ours |= {"loop1", "loop2"}
    block.mapped("dm-0", "fc-rootfs-a.base", "BANGER-fc-rootfs-a.base", "loop1")
    block.mapped("dm-1", "fc-rootfs-a", "BANGER-fc-rootfs-a", "dm-0", "loop2")

    devices.require_snapshot("fc-rootfs-a")
    assert devices.snapshots() == ("fc-rootfs-a",)


def test_a_base_alone_is_listed_by_its_snapshots_name(block: Block) -> None:
    block.mapped("dm-0", "fc-rootfs-a.base", "BANGER-fc-rootfs-a.base")
    block.mapped("dm-1", "cryptroot", "CRYPT-1")
    block.mapped("dm-2", "fc-rootfs-b", "CRYPT-2")

    assert devices.snapshots() == ("fc-rootfs-a",)


UUIDS = st.sampled_from(["BANGER-fc-rootfs-a", "BANGER-fc-rootfs-b", "BANGER-", "LVM-x", ""])
SLAVES = st.sets(st.sampled_from(["loop1", "loop2", "loop3", "sda", "vda1", "nvme0n1"]))


@given(uuid=UUIDS, slaves=SLAVES, ours=SLAVES)
def test_only_what_is_wholly_bangers_passes(uuid: str, slaves: set[str], ours: set[str]) -> None:
    with tempfile.TemporaryDirectory() as top, pytest.MonkeyPatch.context() as patch:
        block = Block(Path(top), patch)
        block.ours |= ours
        block.mapped("dm-0", "fc-rootfs-a", uuid, *slaves)
        fault = fault_of(lambda: devices.require_snapshot("fc-rootfs-a"))

        wholly = uuid == "BANGER-fc-rootfs-a" and slaves <= ours
        assert fault is (None if wholly else FaultCode.REFUSED)


NAMES = st.sampled_from(["fc-rootfs-a", "fc-rootfs-b", "fc-rootfs-a.base", "vg-root", "../a", ""])


@given(name=NAMES | st.text(max_size=20), uuid=UUIDS, slaves=SLAVES, ours=SLAVES)
def test_no_device_but_bangers_is_opened_to_be_flushed(
    name: str, uuid: str, slaves: set[str], ours: set[str]
) -> None:
    opened: list[int] = []

    @contextlib.contextmanager
    def node(site: Site, called: str, number: int, owner: tuple[int, int]) -> Iterator[int]:
        assert (called, owner) == (".flush-fc-rootfs-a", (0, 0)), "root's alone"
        opened.append(number)
        with tempfile.TemporaryFile() as device:
            yield device.fileno()

    with tempfile.TemporaryDirectory() as top, pytest.MonkeyPatch.context() as patch:
        block = Block(Path(top), patch)
        block.ours |= ours
        block.mapped("dm-0", "fc-rootfs-a", uuid, *slaves)
        patch.setattr(devicemapper, "_node", node)
        request = FlushSnapshot(name=name)
        fault = fault_of(lambda: devicemapper.flush_snapshot(SITE, request))

        wholly = uuid == "BANGER-fc-rootfs-a" and slaves <= ours
        assert (fault is None) == (wholly and name == "fc-rootfs-a")
        assert opened == ([os.makedev(253, 0)] if fault is None else [])


def test_tables_are_the_kernels() -> None:
    assert devicemapper.snapshot_table("7:0", "7:1", 2048) == "0 2048 snapshot 7:0 7:1 P 8\n"
    assert devicemapper.extended_table("7:0", 2048, 4096) == "0 2048 linear 7:0 0\n2048 2048 zero\n"


def test_a_loop_configuration_is_the_kernels() -> None:
    config = loop.configuration(5, readonly=True)

    # linux/loop.h: struct loop_config is 304 bytes; lo_flags and lo_file_name at 60 and 64.
    assert len(config) == 304
    assert struct.unpack_from("=II", config) == (5, 512)
    assert struct.unpack_from("=I", config, 60) == (1 | 4,)
    assert config[64:128].rstrip(b"\0") == MARK.encode()


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="needs root and loop"
)
def test_a_loop_device_is_there_while_it_is_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content".ljust(8192, b"."))
    descriptor = os.open(file, os.O_RDONLY)
    with loop.attached(descriptor, readonly=True) as place:
        name = f"loop{place.split(':')[1]}"
        assert loop.marked(name)
        assert Path(f"/dev/{name}").read_bytes() == file.read_bytes()
        assert Path(f"/sys/block/{name}/ro").read_text() == "1\n"

    os.close(descriptor)
    assert not loop.marked(name)
