"""What happens on a disk that is full: run as a program, in a mount namespace of its own.

    unshare --mount python full_disk.py SCENARIO DIRECTORY

mounts a small tmpfs on DIRECTORY, which vanishes with the process, and fails with an AssertionError
when the scenario does not hold. tests/unit/storage/test_full_disk.py runs them all.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from banger.api.errors import ErrorCode, PermanentError
from banger.api.sizes import GIB, KIB, MIB
from banger.host.files import remove_tree, write_atomic
from banger.host.resources import free_bytes
from banger.storage import ext4
from banger.storage.files import copy_sparse
from banger.storage.garbage import list_layers, sweep, unreachable
from banger.storage.qcow2 import Qcow2
from banger.storage.workdisk import create_work_disk, grow_work_disk


def copying(disk: Path, outside: Path) -> None:
    seed = outside / "seed"
    seed.write_bytes(os.urandom(20 * MIB))
    with refused(disk):
        copy_sparse(seed, disk / "copy")


def writing_over(disk: Path, _outside: Path) -> None:
    write_atomic(disk / "file", b"old")
    with refused(disk):
        write_atomic(disk / "file", os.urandom(20 * MIB))
    assert (disk / "file").read_bytes() == b"old"


def creating_a_work_disk(disk: Path, outside: Path) -> None:
    seed = filesystem(outside / "seed", 64 * MIB, content=20 * MIB)
    with refused(disk):
        asyncio.run(create_work_disk(seed, disk / "work.raw", 64 * MIB))


def resizing_a_new_work_disk(disk: Path, outside: Path) -> None:
    seed = filesystem(outside / "seed", 64 * MIB, content=MIB)
    copy_sparse(seed, disk / "measure")
    room = (disk / "measure").stat().st_blocks * 512
    (disk / "measure").unlink()
    fill(disk, leave=room + 16 * KIB)
    with refused(disk):
        asyncio.run(create_work_disk(seed, disk / "work.raw", 32 * GIB))


def growing_a_work_disk(disk: Path, outside: Path) -> None:
    work = disk / "work.raw"
    copy_sparse(filesystem(outside / "seed", 64 * MIB, content=9 * MIB), work)
    before = digest(work)
    with refused(disk):
        asyncio.run(grow_work_disk(work, disk / "grown.raw", GIB))
    assert digest(work) == before
    asyncio.run(ext4.check(work))


def growing_a_work_disk_of_layers(disk: Path, outside: Path) -> None:
    work, top = outside / "work.raw", disk / "top.qcow2"
    filesystem(work, 64 * MIB, content=20 * MIB)
    asyncio.run(Qcow2().overlay(work, top))
    before = digest(top)
    with refused(disk):
        asyncio.run(grow_work_disk(top, disk / "grown.raw", GIB))
    assert digest(top) == before


def creating_a_root_disk(disk: Path, outside: Path) -> None:
    base = filesystem(outside / "base", 64 * MIB, content=MIB)
    fill(disk, leave=0)
    with refused(disk):
        asyncio.run(Qcow2().create(base, disk / "root.qcow2", 64 * MIB))


def making_an_overlay(disk: Path, _outside: Path) -> None:
    (disk / "work.raw").write_bytes(bytes(MIB))
    fill(disk, leave=64 * KIB)
    with refused(disk):
        asyncio.run(Qcow2().overlay(disk / "work.raw", disk / "top.qcow2"))


def copying_an_overlay(disk: Path, outside: Path) -> None:
    (outside / "work.raw").write_bytes(bytes(MIB))
    asyncio.run(Qcow2().overlay(outside / "work.raw", outside / "empty.qcow2"))
    fill(disk, leave=64 * KIB)
    with refused(disk):
        Qcow2().copy_overlay(outside / "empty.qcow2", disk / "top.qcow2")


def flattening(disk: Path, outside: Path) -> None:
    base, middle, top = outside / "base.raw", outside / "middle.qcow2", disk / "top.qcow2"
    base.touch()
    os.truncate(base, 64 * MIB)
    asyncio.run(Qcow2().overlay(base, middle))
    subprocess.run(["qemu-io", "-c", "write -q -P 1 0 20M", middle], check=True)
    asyncio.run(Qcow2().overlay(middle, top))
    before = digest(top)
    with refused(disk):
        asyncio.run(Qcow2().flatten(top, base))
    assert digest(top) == before
    asyncio.run(Qcow2().check(top))


def sweeping(disk: Path, outside: Path) -> None:
    (outside / "work.raw").write_bytes(bytes(MIB))
    asyncio.run(Qcow2().overlay(outside / "work.raw", disk / "0123456789ab.qcow2"))
    fill(disk, leave=0)
    assert len(sweep(unreachable(list_layers(disk), []).files).names) == 1


def removing_a_tree(disk: Path, _outside: Path) -> None:
    (disk / "vm" / "deep").mkdir(parents=True)
    (disk / "vm" / "deep" / "file").touch()
    fill(disk, leave=0)
    remove_tree(disk / "vm")
    assert not (disk / "vm").exists()


SCENARIOS: dict[str, Callable[[Path, Path], None]] = {
    scenario.__name__: scenario
    for scenario in (
        copying,
        writing_over,
        creating_a_work_disk,
        resizing_a_new_work_disk,
        growing_a_work_disk,
        growing_a_work_disk_of_layers,
        creating_a_root_disk,
        making_an_overlay,
        copying_an_overlay,
        flattening,
        sweeping,
        removing_a_tree,
    )
}


@contextmanager
def refused(disk: Path) -> Iterator[None]:
    """Whatever the block does fails for want of space, with advice, and leaves nothing new."""
    before = {path.name for path in disk.iterdir()}
    with pytest.raises(PermanentError) as refusal:
        yield
    assert refusal.value.code is ErrorCode.INSUFFICIENT_DISK, refusal.value
    assert refusal.value.hint
    assert {path.name for path in disk.iterdir()} == before


def filesystem(path: Path, size: int, *, content: int) -> Path:
    tree = path.with_name("tree")
    tree.mkdir()
    (tree / "data").write_bytes(os.urandom(content))
    path.touch()
    os.truncate(path, size)
    # fmt: off
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-J", "size=4", "-d", tree, path],
        check=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )
    # fmt: on
    remove_tree(tree)
    return path


def fill(disk: Path, *, leave: int) -> None:
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free_bytes(disk) - leave))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    scenario, directory = SCENARIOS[sys.argv[1]], Path(sys.argv[2])
    disk, outside = directory / "disk", directory / "outside"
    disk.mkdir()
    outside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", disk], check=True)
    scenario(disk, outside)


if __name__ == "__main__":
    main()
