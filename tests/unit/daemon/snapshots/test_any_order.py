"""Whatever is done to VMs, in any order and however it fails, their disks hold what was written.

Real rows, real files, as layers and as copies, a daemon for each command, of which some are killed
or fail; only the VMM is a table entry, and what root makes for it. The model is a list of numbers
for each disk, and for each snapshot.
"""

from __future__ import annotations

import asyncio
import copy
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)
from tests.unit.daemon.snapshots.disks import content, read, write
from tests.unit.daemon.vms.installed import Root
from tests.unit.daemon.vms.world import (
    Daemon,
    Processes,
    daemon,
    failed_with,
    killed_at,
    leftovers,
    paths_below,
)

from banger.api.errors import BangerError, ErrorCode, PermanentError
from banger.api.models import (
    CreateSnapshot,
    ForkVM,
    Operation,
    RestoreSnapshot,
    VMState,
)
from banger.daemon.paths.embedded import RUN_STEPS
from banger.daemon.snapshots.checkpoint import KEEP_STEPS, LASTING_STEPS, MEMORY_STEPS
from banger.daemon.vms.lifecycle import go_on_steps
from banger.daemon.vms.steps import Hook, no_hook
from banger.daemon.vms.suspend import SUSPEND_STEPS

T = TypeVar("T")

BLOCKS = 3

RUN = list(dict.fromkeys(("tap", "ssh", "root device", *(s.name for s in RUN_STEPS))))
GO_ON = list(dict.fromkeys((*RUN, *(step.name for step in go_on_steps(RUN_STEPS)))))
PLACES = [
    *[("snapshot", step.name) for step in (*LASTING_STEPS, *MEMORY_STEPS, *KEEP_STEPS)],
    *[("fork", step.name) for step in (*LASTING_STEPS, *MEMORY_STEPS)],
    *[("restore", name) for name in GO_ON],
    *[("start", name) for name in GO_ON],
    *[("suspend", step.name) for step in SUSPEND_STEPS],
    *[("suspend", name) for name in RUN],
    *[("stop", name) for name in RUN],
    ("create", "root disk"),
    ("create", "work disk"),
]
FAULTS = st.sampled_from([None, None, None, *PLACES])
ENDINGS = st.sampled_from(["raise", "kill", "kill with the VMMs"])
NUMBERS = st.integers(1, 250)


@dataclass
class Disks:
    """What was written to the two disks of a VM, and its memory while it has some."""

    root: list[int] = field(default_factory=lambda: [0] * BLOCKS)
    work: list[int] = field(default_factory=lambda: [0] * BLOCKS)


@dataclass
class Model:
    """One VM."""

    disks: Disks = field(default_factory=Disks)
    snapshots: dict[str, Disks] = field(default_factory=dict)


class AnyOrder(RuleBasedStateMachine):
    """A user of several VMs, some of whose commands fail at a step or see the daemon die there."""

    vms = Bundle("vms")

    @initialize(target=vms)
    def begin(self) -> str:
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        self.processes = Processes()
        self.options = self.opened()
        self.models: dict[str, Model] = {"vm-0": Model()}
        self.count = 0
        assert self._done(lambda life: life.create("vm-0")) is None
        return "vm-0"

    def opened(self) -> dict[str, Any]:
        """What daemons of this host are begun with."""
        return {}

    @rule(vm=vms, serial=st.sampled_from(["root", "work"]), block=st.integers(0, BLOCKS - 1),
          number=NUMBERS)  # fmt: skip
    def write(self, vm: str, serial: str, block: int, number: int) -> None:
        if vm not in self.models or self._state(vm) is not VMState.RUNNING:
            return

        self._run(lambda life: write(life, vm, serial, block, number))
        getattr(self.models[vm].disks, serial)[block] = number

    @rule(vm=vms, verb=st.sampled_from(["start", "stop", "suspend", "pause", "resume"]),
          fault=FAULTS, ending=ENDINGS)  # fmt: skip
    def change(self, vm: str, verb: str, fault: tuple[str, str] | None, ending: str) -> None:
        if vm in self.models:
            self._command(lambda life: getattr(life.vms, verb)(vm), fault, ending)

    @rule(vm=vms, fault=FAULTS, ending=ENDINGS)
    def keep(self, vm: str, fault: tuple[str, str] | None, ending: str) -> None:
        if vm not in self.models:
            return

        self.count += 1
        name = f"s{self.count}"
        request = CreateSnapshot(name=name)
        ended = self._command(lambda life: life.snapshots.create(vm, request), fault, ending)
        if ended is None:
            self.models[vm].snapshots[name] = copy.deepcopy(self.models[vm].disks)

    @rule(vm=vms, data=st.data(), memory=st.booleans(), fault=FAULTS, ending=ENDINGS)
    def go_back(
        self, vm: str, data: st.DataObject, memory: bool, fault: tuple[str, str] | None, ending: str
    ) -> None:
        model = self.models.get(vm)
        if model is None or not model.snapshots:
            return

        name = data.draw(st.sampled_from(sorted(model.snapshots)))
        request = RestoreSnapshot(memory=memory)
        ended = self._command(lambda life: life.snapshots.restore(vm, name, request), fault, ending)
        if ended is None:
            model.disks = copy.deepcopy(model.snapshots[name])

    @rule(vm=vms, data=st.data())
    def drop(self, vm: str, data: st.DataObject) -> None:
        model = self.models.get(vm)
        if model is not None and model.snapshots:
            name = data.draw(st.sampled_from(sorted(model.snapshots)))
            assert self._command(lambda life: life.snapshots.delete(vm, name)) is None
            del model.snapshots[name]

    @rule(target=vms, vm=vms, count=st.integers(1, 2), fault=FAULTS, ending=ENDINGS)
    def fork(self, vm: str, count: int, fault: tuple[str, str] | None, ending: str) -> object:
        if vm not in self.models or len(self.models) > 3:
            return multiple()

        self.count += 1
        request = ForkVM(count=count, name=f"vm-{self.count}-{{n}}")
        ended = self._command(lambda life: life.snapshots.fork(vm, request), fault, ending)
        if ended is not None:
            return multiple()

        names = [f"vm-{self.count}-{number}" for number in range(1, count + 1)]
        for name in names:
            self.models[name] = Model(disks=copy.deepcopy(self.models[vm].disks))

        return multiple(*names)

    @rule(vm=vms)
    def delete(self, vm: str) -> None:
        if vm in self.models and len(self.models) > 1:
            assert self._command(lambda life: life.vms.delete(vm)) is None
            del self.models[vm]

    @rule()
    def collect(self) -> None:
        self._run(lambda life: life.collector.collect())

    @invariant()
    def what_was_written_is_there(self) -> None:
        if hasattr(self, "root"):
            self._run(self._check)

    def teardown(self) -> None:
        if not hasattr(self, "root"):
            return

        for vm in list(self.models):
            assert self._command(lambda life, vm=vm: life.vms.delete(vm)) is None  # type: ignore[misc]

        self._run(lambda life: life.collector.collect())
        paths = paths_below(self.root)
        assert leftovers(self.root, self.processes) == []
        assert [*paths.disks.glob("*"), *paths.snapshots.glob("*")] == []
        self.directory.cleanup()

    async def _check(self, life: Daemon) -> None:
        rows = {row.name: row for row in await life.site.store.vms()}
        assert set(rows) == set(self.models)
        for name, model in self.models.items():
            row = rows[name]
            assert row.state in (
                VMState.RUNNING, VMState.PAUSED, VMState.STOPPED, VMState.SUSPENDED,
            )  # fmt: skip
            assert (row.operation, row.handles.next) == (None, None)
            assert await read(life, name, "root", BLOCKS) == model.disks.root, name
            assert await read(life, name, "work", BLOCKS) == model.disks.work, name
            kept = {found.name: found for found in await life.site.store.snapshots(row.id)}
            assert set(kept) == set(model.snapshots)
            for snapshot, disks in model.snapshots.items():
                layers = kept[snapshot].disks
                assert content(Path(layers.root.path), BLOCKS) == disks.root, snapshot
                assert content(Path(layers.work.path), BLOCKS) == disks.work, snapshot

        running = sum(row.state in (VMState.RUNNING, VMState.PAUSED) for row in rows.values())
        assert len(self.processes.alive) == running

    def _state(self, vm: str) -> VMState:
        async def state(life: Daemon) -> VMState:
            return (await life.vms.show(vm)).state

        return self._run(state)

    def _command(
        self,
        ask: Callable[[Daemon], Awaitable[Operation]],
        fault: tuple[str, str] | None = None,
        ending: str = "raise",
    ) -> ErrorCode | str | None:
        async def command(life: Daemon) -> ErrorCode | str | None:
            return failed_with(await life.done(await ask(life)))

        if fault is None or ending == "raise":
            return self._done(command, _failing_at(fault))

        ended: list[ErrorCode | str | None] = []

        async def told(life: Daemon) -> None:
            ended.append(await _outcome(command(life)))

        if not killed_at(fault, self.root, self.processes, told, **self.options):
            return ended[0]

        if ending == "kill with the VMMs":
            self.processes.alive.clear()

        return ErrorCode.INTERRUPTED

    def _done(
        self, command: Callable[[Daemon], Awaitable[ErrorCode | str | Operation | None]],
        hook: Hook = no_hook,
    ) -> ErrorCode | str | None:  # fmt: skip
        async def work() -> ErrorCode | str | None:
            async with daemon(self.root, self.processes, hook=hook, **self.options) as life:
                await life.quiet()
                return await _outcome(command(life))

        return asyncio.run(work())

    def _run(self, work: Callable[[Daemon], Awaitable[T]]) -> T:
        async def live() -> T:
            async with daemon(self.root, self.processes, **self.options) as life:
                await life.quiet()
                return await work(life)

        return asyncio.run(live())


async def _outcome(
    command: Awaitable[ErrorCode | str | Operation | None],
) -> ErrorCode | str | None:
    try:
        ended = await command
    except BangerError as error:
        return error.code

    return failed_with(ended) if isinstance(ended, Operation) else ended


def _failing_at(fault: tuple[str, str] | None) -> Hook:
    if fault is None:
        return no_hook

    async def hook(label: str, step: str) -> None:
        if (label, step) == fault:
            raise PermanentError(ErrorCode.INTERNAL, "injected")

    return hook


class AnyOrderInstalled(AnyOrder):
    """The same on an installed host, where moments are copies of raw files."""

    def opened(self) -> dict[str, Any]:
        return {"path": Root(self.processes).open}


FEW = settings(
    max_examples=6,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
AnyOrder.TestCase.settings = AnyOrderInstalled.TestCase.settings = FEW
TestAnyOrder = AnyOrder.TestCase
TestAnyOrderInstalled = AnyOrderInstalled.TestCase
