"""Layers over layers: empty ones made and copied, deep chains flattened, all of them checked."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.storage.disks import content, instead_of, open_in_vmm, write

from banger.api.errors import ErrorCode, PermanentError, TransientError
from banger.api.sizes import MIB
from banger.host.runner import require, run
from banger.storage.layers import chain, virtual_size
from banger.storage.qcow2 import Qcow2

DISKS = Qcow2()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.raw"
    path.write_bytes(os.urandom(MIB))
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "disks"
    path.mkdir()
    return path


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def without(directory: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on `qemu-img STEP` writes something and dies."""
    real = require("qemu-img")
    script = f'[ "$1" = {step} ] || exec {real} "$@"\necho x >>"$disk"\nkill -9 $$\n'
    instead_of("qemu-img", directory, script, monkeypatch)


async def test_an_overlay_reads_as_what_it_lies_over(base: Path, directory: Path) -> None:
    first, second = directory / "first.qcow2", directory / "second.qcow2"
    await DISKS.overlay(base, first)
    await write(first, "write -P 7 64k 4k")
    await DISKS.overlay(first, second)
    assert content(second) == content(first) != base.read_bytes()
    assert virtual_size(second) == MIB
    assert stat.S_IMODE(second.stat().st_mode) == 0o600
    assert names(directory) == {"first.qcow2", "second.qcow2"}


async def test_writes_to_an_overlay_do_not_reach_what_it_lies_over(
    base: Path, directory: Path
) -> None:
    before = base.read_bytes()
    await DISKS.overlay(base, directory / "top.qcow2")
    await write(directory / "top.qcow2", "write -P 7 0 1M")
    assert base.read_bytes() == before


async def test_an_overlay_may_be_larger(base: Path, directory: Path) -> None:
    await DISKS.overlay(base, directory / "top.qcow2", size=2 * MIB)
    assert content(directory / "top.qcow2") == base.read_bytes() + bytes(MIB)


async def test_an_overlay_names_what_it_lies_over_from_anywhere(
    base: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base.parent)
    await DISKS.overlay(Path(base.name), Path("disks/top.qcow2"))
    described = await run(["qemu-img", "info", "--output=json", directory / "top.qcow2"])
    found = json.loads(described.stdout)
    assert found["backing-filename"] == str(base)
    assert found["backing-filename-format"] == "raw"


@pytest.mark.parametrize("form", ["raw", "qcow2"])
async def test_an_overlay_is_made_while_a_vmm_writes_to_what_it_will_lie_over(
    base: Path, directory: Path, form: str
) -> None:
    disk = directory / f"disk.{form}"
    await run(["qemu-img", "convert", "-f", "raw", "-O", form, base, disk])
    with open_in_vmm(disk):
        await DISKS.overlay(disk, directory / "next.qcow2")

    assert content(directory / "next.qcow2") == base.read_bytes()


async def test_an_overlay_that_cannot_be_made_leaves_nothing(
    base: Path, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(tmp_path / "bin", "create", monkeypatch)
    with pytest.raises(PermanentError):
        await DISKS.overlay(base, directory / "top.qcow2")
    assert names(directory) == set()


async def test_no_overlay_is_made_over_what_is_missing(directory: Path) -> None:
    for name in ("missing.raw", "missing.qcow2"):
        with pytest.raises(PermanentError) as refusal:
            await DISKS.overlay(directory / name, directory / "top.qcow2")
        assert refusal.value.code is ErrorCode.STATE_CORRUPT
    assert names(directory) == set()


async def test_copies_of_an_empty_overlay_are_disks_of_their_own(
    base: Path, directory: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.qcow2"
    await DISKS.overlay(base, empty)
    first, second = directory / "first.qcow2", directory / "second.qcow2"
    # What a crash left.
    (directory / "first.qcow2.part").write_bytes(b"half")
    DISKS.copy_overlay(empty, first)
    DISKS.copy_overlay(empty, second)
    await write(first, "write -P 1 0 1M")
    assert content(second) == content(empty) == base.read_bytes()
    assert content(first) == b"\x01" * MIB
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert names(directory) == {"first.qcow2", "second.qcow2"}


async def stack(base: Path, directory: Path, depth: int) -> list[Path]:
    """A chain, the top first, whose every layer has something of its own."""
    members = [base]
    for number in range(depth):
        layer = directory / f"{number}.qcow2"
        await DISKS.overlay(members[0], layer)
        await write(layer, f"write -P {number} {number * 60}k 100k", f"write -z {number * 7}k 3k")
        members.insert(0, layer)

    return members


@pytest.mark.parametrize("bottom", [2, 3, -1])
async def test_flattening_keeps_the_content_and_leaves_layers_out(
    base: Path, directory: Path, bottom: int
) -> None:
    members = await stack(base, directory, 5)
    before = {member: content(member) for member in members}
    raw = {member: member.read_bytes() for member in members[1:]}
    await DISKS.flatten(members[0], members[bottom])
    assert chain(members[0]) == (members[0], *members[bottom:])
    assert {member: content(member) for member in members} == before
    assert {member: member.read_bytes() for member in members[1:]} == raw
    assert stat.S_IMODE(members[0].stat().st_mode) == 0o600
    assert len(names(directory)) == 5


async def test_flattening_a_disk_that_has_grown(base: Path, directory: Path) -> None:
    members = await stack(base, directory, 2)
    top = directory / "top.qcow2"
    await DISKS.overlay(members[0], top, size=2 * MIB)
    await write(top, "write -P 9 1500k 64k")
    before = content(top)
    await DISKS.flatten(top, base)
    assert content(top) == before
    assert virtual_size(top) == 2 * MIB


async def test_where_nothing_lies_between_nothing_is_done(base: Path, directory: Path) -> None:
    top = (await stack(base, directory, 1))[0]
    before = top.stat()
    await DISKS.flatten(top, base)
    after = top.stat()
    # Not by all of it: to look at a file may change when it was looked at.
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


async def test_what_a_vmm_writes_to_is_not_flattened(base: Path, directory: Path) -> None:
    top = (await stack(base, directory, 2))[0]
    with open_in_vmm(top), pytest.raises(TransientError, match="in use"):
        await DISKS.flatten(top, base)
    assert len(chain(top)) == 3
    assert len(names(directory)) == 2


async def test_a_flattening_that_fails_leaves_the_disk_as_it_was(
    base: Path, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = (await stack(base, directory, 3))[0]
    before = top.read_bytes()
    without(tmp_path / "bin", "rebase", monkeypatch)
    with pytest.raises(PermanentError) as refusal:
        await DISKS.flatten(top, base)
    assert refusal.value.code is ErrorCode.TOOL_FAILED
    assert top.read_bytes() == before
    assert len(names(directory)) == 3


FLATTEN = """
import asyncio, sys
from pathlib import Path
from banger.storage.layers import chain
from banger.storage.qcow2 import Qcow2
top = Path(sys.argv[1])
print("begun", flush=True)
asyncio.run(Qcow2().flatten(top, chain(top)[-1]))
"""


def flatten_killed(top: Path, after: float | None) -> float:
    """Flatten `top` in a process of its own, killed `after` seconds; how long it lived."""
    argv: list[str | Path] = [sys.executable, "-c", FLATTEN, top]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        begun = time.monotonic()
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
        return time.monotonic() - begun


async def test_killed_at_any_moment_the_disk_is_the_old_or_the_new_one(
    base: Path, directory: Path
) -> None:
    os.truncate(base, 64 * MIB)
    members = [directory / f"{name}.qcow2" for name in ("top", "middle", "low")]
    await DISKS.overlay(base, members[2])
    await write(members[2], "write -P 1 0 24M")
    await DISKS.overlay(members[2], members[1])
    await write(members[1], "write -P 2 20M 24M")
    await DISKS.overlay(members[1], members[0])
    await write(members[0], "write -P 3 40M 4M")
    before, expected = members[0].read_bytes(), content(members[0])
    whole = flatten_killed(members[0], None)
    assert chain(members[0]) == (members[0], base)
    ends = set()
    for point in range(8):
        members[0].write_bytes(before)
        flatten_killed(members[0], whole * point / 7)
        ends.add(len(chain(members[0])))
        await DISKS.check(members[0])
        assert content(members[0]) == expected

    assert 4 in ends
    # What the last that was killed left is in nobody's way.
    members[0].write_bytes(before)
    await DISKS.flatten(members[0], base)
    assert content(members[0]) == expected
    assert names(directory) == {member.name for member in members}


@pytest.mark.parametrize("ruin", [b"", b"ruined", b"QFI\xfb" + b"\xff" * 500])
async def test_a_ruined_layer_below_is_found(base: Path, directory: Path, ruin: bytes) -> None:
    members = await stack(base, directory, 3)
    await DISKS.check(members[0])
    members[1].write_bytes(ruin)
    with pytest.raises(PermanentError) as refusal:
        await DISKS.check(members[0])
    assert refusal.value.code is ErrorCode.STATE_CORRUPT
    assert refusal.value.hint


async def test_a_raw_disk_is_there_or_not(base: Path) -> None:
    await DISKS.check(base)
    base.unlink()
    with pytest.raises(PermanentError) as refusal:
        await DISKS.check(base)
    assert refusal.value.code is ErrorCode.STATE_CORRUPT
