"""Any order of what is done to disks keeps each as a model says, and sweeps what nothing needs.

Real qcow2 files of 1 MiB. A longer run:

    pytest tests/unit/storage/test_lineage.py --hypothesis-profile=long
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.unit.storage.disks import content, write

from banger.api.sizes import KIB, MIB
from banger.storage.garbage import list_layers, sweep, unreachable
from banger.storage.layers import allocated, chain, layer_path
from banger.storage.qcow2 import Qcow2

Result = TypeVar("Result")

# Renames are durable at once there, so that none has to wait for a disk.
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None
DISKS = Qcow2()

# The byte written, where, and how many: on and off the boundaries of sectors and clusters.
Write = tuple[int, int, int]
WRITES = st.tuples(
    st.integers(0, 255), st.integers(0, MIB - 1), st.sampled_from([1, 512, 64 * KIB, 300 * KIB])
)


@dataclass
class Disk:
    """A disk by its top, and what a guest must find on it."""

    top: Path
    holds: bytearray


@dataclass
class Snapshot(Disk):
    """A disk that no longer changes, and the empty overlay over it that clones begin as."""

    empty: Path


class Lineage(RuleBasedStateMachine):
    """What the daemon does to disks, without the daemon."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(dir=SCRATCH))
        self.layers = self.root / "disks"
        self.layers.mkdir()
        self.image = self.root / "rootfs.ext4"
        self.image.write_bytes(random.Random(0).randbytes(MIB))
        self.notes = self.layers / "notes.txt"
        self.notes.touch()
        self.empties = (self.root / f"empty{number}.qcow2" for number in itertools.count())
        self.vms: list[Disk] = []
        self.snapshots: list[Snapshot] = []

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    def fresh(self) -> Path:
        return layer_path(self.layers, "qcow2")

    @property
    def tops(self) -> set[Path]:
        return {disk.top for disk in (*self.vms, *self.snapshots)}

    @property
    def needed(self) -> set[Path]:
        """The layers that disks in use consist of."""
        members = {member for top in self.tops for member in chain(top)}
        return members - {self.image}

    @rule()
    def create_over_an_image(self) -> None:
        vm = Disk(self.fresh(), bytearray(self.image.read_bytes()))
        self.run(DISKS.create(self.image, vm.top, MIB))
        self.vms.append(vm)

    @rule()
    def create_raw(self) -> None:
        vm = Disk(layer_path(self.layers, "raw"), bytearray(MIB))
        vm.top.touch()
        os.truncate(vm.top, MIB)
        self.vms.append(vm)

    @initialize(writes=st.lists(WRITES, min_size=1, max_size=1))
    def fork_thrice(self, writes: list[Write]) -> None:
        self.create_over_an_image()
        vm = self.vms[0]
        for _ in range(3):
            self.write(vm, writes)
            self.go_over(vm)

    def write(self, vm: Disk, writes: Iterable[Write]) -> None:
        commands = []
        for pattern, start, length in writes:
            size = min(length, len(vm.holds) - start)
            # Zeros as a guest that discards them writes them.
            commands.append(f"write {f'-P {pattern}' if pattern else '-z -u'} {start} {size}")
            vm.holds[start : start + size] = bytes([pattern]) * size

        if commands:
            self.run(write(vm.top, *commands))

    def go_over(self, vm: Disk, *, size: int | None = None) -> None:
        """What a VM has been so far becomes immutable, and it writes to a new layer."""
        above = self.fresh()
        self.run(DISKS.overlay(vm.top, above, size=size))
        vm.top = above

    @precondition(lambda self: self.vms)
    @rule(data=st.data(), writes=st.lists(WRITES, min_size=1, max_size=4))
    def guest_writes(self, data: st.DataObject, writes: list[Write]) -> None:
        self.write(data.draw(st.sampled_from(self.vms)), writes)

    @precondition(lambda self: self.vms)
    @rule(data=st.data(), writes=st.lists(WRITES, max_size=2), growth=st.sampled_from([0, 64]))
    def snapshot(self, data: st.DataObject, writes: list[Write], growth: int) -> None:
        vm = data.draw(st.sampled_from(self.vms))
        snapshot = Snapshot(vm.top, vm.holds.copy(), next(self.empties))
        self.run(DISKS.overlay(vm.top, snapshot.empty))
        self.snapshots.append(snapshot)
        vm.holds += bytes(growth * KIB)
        self.go_over(vm, size=len(vm.holds))
        self.write(vm, writes)

    @precondition(lambda self: self.vms)
    @rule(data=st.data(), count=st.integers(1, 2), writes=st.lists(WRITES, max_size=2))
    def fork(self, data: st.DataObject, count: int, writes: list[Write]) -> None:
        vm = data.draw(st.sampled_from(self.vms))
        checkpoint = vm.top
        self.go_over(vm)
        empty = next(self.empties)
        self.run(DISKS.overlay(checkpoint, empty))
        children = [Disk(self.fresh(), vm.holds.copy()) for _ in range(count)]
        for child in children:
            DISKS.copy_overlay(empty, child.top)

        self.write(children[0], writes)
        empty.unlink()
        self.vms += children

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data(), writes=st.lists(WRITES, max_size=2))
    def clone(self, data: st.DataObject, writes: list[Write]) -> None:
        snapshot = data.draw(st.sampled_from(self.snapshots))
        vm = Disk(self.fresh(), snapshot.holds.copy())
        DISKS.copy_overlay(snapshot.empty, vm.top)
        self.write(vm, writes)
        self.vms.append(vm)

    @precondition(lambda self: self.snapshots and self.vms)
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        vm = data.draw(st.sampled_from(self.vms))
        snapshot = data.draw(st.sampled_from(self.snapshots))
        vm.top, vm.holds = self.fresh(), snapshot.holds.copy()
        DISKS.copy_overlay(snapshot.empty, vm.top)

    @precondition(lambda self: self.vms)
    @rule(data=st.data())
    def delete_a_vm(self, data: st.DataObject) -> None:
        self.vms.remove(data.draw(st.sampled_from(self.vms)))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def delete_a_snapshot(self, data: st.DataObject) -> None:
        snapshot = data.draw(st.sampled_from(self.snapshots))
        snapshot.empty.unlink()
        self.snapshots.remove(snapshot)

    @precondition(lambda self: any(len(chain(vm.top)) > 2 for vm in self.vms))
    @rule(data=st.data())
    def flatten(self, data: st.DataObject) -> None:
        vm = data.draw(st.sampled_from([vm for vm in self.vms if len(chain(vm.top)) > 2]))
        bottom = data.draw(st.sampled_from(chain(vm.top)[2:]))
        self.run(DISKS.flatten(vm.top, bottom))
        assert chain(vm.top)[1] == bottom

    @precondition(lambda self: self.vms)
    @rule(data=st.data())
    def crash_of_a_snapshot(self, data: st.DataObject) -> None:
        vm = data.draw(st.sampled_from(self.vms))
        orphan = self.fresh()
        self.run(DISKS.overlay(vm.top, orphan))
        orphan.with_name(f"{self.fresh().name}.part").write_bytes(b"half")

    def garbage(self, *more: Path) -> tuple[Path, ...]:
        """What there is to be swept, in an order in which no chain is ever cut below its top."""
        listed = list_layers(self.layers)
        chains = {layer: chain(layer) for layer in listed if layer.suffix != ".part"}
        found = unreachable(listed, [*self.tops, *more])
        assert found.unreadable == ()
        for file in found.files:
            chains.pop(file, None)
            assert not any(file in members for members in chains.values())

        return found.files

    @rule(data=st.data())
    def sweep_until_killed(self, data: st.DataObject) -> None:
        garbage = self.garbage()
        sweep(garbage[: data.draw(st.integers(0, len(garbage)))])

    @rule()
    def sweep_all(self) -> None:
        before = sum(path.stat().st_blocks * 512 for path in list_layers(self.layers))
        not_made_yet = self.fresh()
        freed = sweep(self.garbage(not_made_yet))
        left = list_layers(self.layers)
        assert set(left) == self.needed
        assert before - freed.allocated == sum(path.stat().st_blocks * 512 for path in left)

    @precondition(lambda self: self.needed)
    @rule(data=st.data())
    def sweep_while_a_layer_is_away(self, data: st.DataObject) -> None:
        needed = self.needed
        below = sorted(needed - self.tops)
        if not below:
            return

        away = data.draw(st.sampled_from(below))
        away.rename(self.root / "away")
        sweep(unreachable(list_layers(self.layers), self.tops).files)
        (self.root / "away").rename(away)
        assert needed <= set(list_layers(self.layers))

    @precondition(lambda self: self.vms)
    @rule(data=st.data())
    def a_guest_reads(self, data: st.DataObject) -> None:
        vm = data.draw(st.sampled_from(self.vms))
        assert content(vm.top) == vm.holds

    def teardown(self) -> None:
        try:
            self.all_is_as_it_should_be()
        finally:
            self.runner.close()
            shutil.rmtree(self.root)

    def all_is_as_it_should_be(self) -> None:
        self.sweep_all()
        for disk in (*self.vms, *self.snapshots):
            assert content(disk.top) == disk.holds
            self.run(DISKS.check(disk.top))
            assert allocated(disk.top) <= sum(
                path.stat().st_blocks * 512 for path in list_layers(self.layers)
            )

        self.vms.clear()
        self.snapshots.clear()
        self.sweep_all()
        assert list(self.layers.iterdir()) == [self.notes]


TestLineage = Lineage.TestCase
TestLineage.settings = settings(
    max_examples=(settings.default or settings()).max_examples // 4, stateful_step_count=20
)
