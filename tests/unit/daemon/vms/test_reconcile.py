"""What a daemon makes of the rows and processes that an earlier one, or an earlier boot, left."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)
from tests.unit.daemon.vms.world import Processes, daemon, failed_with, leftovers

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.models import VMState
from banger.daemon.paths.embedded import RUN_STEPS
from banger.daemon.store.rows import Handles, VMRow
from banger.daemon.vms.create import CREATE_STEPS
from banger.daemon.vms.lifecycle import start_steps
from banger.daemon.vms.steps import Hook, no_hook


async def _leave(root: Path, processes: Processes, state: VMState, **changes: object) -> VMRow:
    """Let a daemon start a VM and end; the store then says that the VM is `state`."""
    async with daemon(root, processes) as life:
        assert failed_with(await life.create("dev")) is None
        row = msgspec.structs.replace(await life.site.store.find_vm("dev"), state=state, **changes)
        await life.site.store.save_vm(row)
        return row


async def _found(root: Path, processes: Processes, host_boot_id: str = "boot 1") -> VMRow | None:
    """What the next daemon makes of it."""
    async with daemon(root, processes, host_boot_id=host_boot_id) as life:
        await life.quiet()
        rows = await life.site.store.vms()
        return rows[0] if rows else None


async def test_a_running_vm_is_the_same_vm_to_the_next_daemon(tmp_path: Path) -> None:
    processes = Processes()
    before = await _leave(tmp_path, processes, VMState.RUNNING)

    assert await _found(tmp_path, processes) == before
    assert len(processes.alive) == 1


async def test_a_vm_whose_vmm_is_gone_is_stopped_and_says_why(tmp_path: Path) -> None:
    processes = Processes()
    await _leave(tmp_path, processes, VMState.RUNNING)
    processes.alive.clear()

    row = await _found(tmp_path, processes)
    assert row is not None
    assert row.state is VMState.STOPPED
    assert "while no daemon was running" in str(row.reason)


async def test_after_a_reboot_of_the_host_nothing_runs(tmp_path: Path) -> None:
    processes = Processes()
    await _leave(tmp_path, processes, VMState.RUNNING)
    processes.alive.clear()

    row = await _found(tmp_path, processes, host_boot_id="boot 2")
    assert row is not None
    assert (row.state, row.reason) == (VMState.STOPPED, "the host rebooted")
    assert row.handles.vmm is None


@pytest.mark.parametrize("state", [VMState.CREATING, VMState.DELETING])
async def test_half_made_and_half_deleted_vms_are_removed(tmp_path: Path, state: VMState) -> None:
    processes = Processes()
    await _leave(tmp_path, processes, state)

    assert await _found(tmp_path, processes) is None
    assert leftovers(tmp_path, processes) == []


@pytest.mark.parametrize("state", [VMState.STARTING, VMState.STOPPING])
async def test_half_started_and_half_stopped_vms_are_stopped_and_keep_their_disks(
    tmp_path: Path, state: VMState
) -> None:
    processes = Processes()
    row = await _leave(tmp_path, processes, state)
    found = await _found(tmp_path, processes)

    assert found is not None
    assert (found.state, found.handles.vmm) == (VMState.STOPPED, None)
    assert processes.alive == {}
    assert _has_disks(row.handles)


async def test_a_vmm_that_was_launched_but_not_recorded_is_found_and_ended(
    tmp_path: Path,
) -> None:
    processes = Processes()
    row = await _leave(tmp_path, processes, VMState.RUNNING)
    handles = msgspec.structs.replace(row.handles, launching=True, vmm=None)
    async with daemon(tmp_path, processes) as life:
        lost = msgspec.structs.replace(row, state=VMState.STARTING, handles=handles)
        await life.site.store.save_vm(lost)

    found = await _found(tmp_path, processes)
    assert found is not None
    assert found.state is VMState.STOPPED
    assert processes.alive == {}


def _has_disks(handles: Handles) -> bool:
    return all(Path(disk.path).exists() for disk in (handles.disks.root, handles.disks.work))


FAULTS = st.sampled_from(
    [
        None,
        *(("create", step.name) for step in CREATE_STEPS),
        *(("start", step.name) for step in start_steps(RUN_STEPS)),
        *(("stop", step.name) for step in RUN_STEPS),
        *(("delete", step.name) for steps in (RUN_STEPS, CREATE_STEPS) for step in steps),
    ]
)


class AnyOrderWithFaults(RuleBasedStateMachine):
    """Commands in any order, any one of them failing at any step, each by a daemon of its own.

    After every command: a VM that is said to run has exactly one VMM, one that is stopped none, a
    name that could be created can be deleted, and what no row owns is not on the host.
    """

    vms: Bundle[str] = Bundle("vms")

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        self.processes = Processes()
        self.count = 0

    def teardown(self) -> None:
        self.directory.cleanup()

    @rule(target=vms, fault=FAULTS, start=st.booleans())
    def create(self, fault: tuple[str, str] | None, start: bool) -> str:
        self.count += 1
        name = f"vm-{self.count}"

        async def work() -> None:
            async with daemon(self.root, self.processes, hook=_failing_at(fault)) as life:
                code = failed_with(await life.create(name, start=start))
                exists = name in {vm.name for vm in await life.vms.list()}
                assert exists == (code is None)

        asyncio.run(work())
        return name

    @rule(vm=vms, fault=FAULTS, verb=st.sampled_from(["start", "stop", "restart"]))
    def change(self, vm: str, fault: tuple[str, str] | None, verb: str) -> None:
        self._command(vm, verb, fault)

    @rule(vm=consumes(vms), fault=FAULTS)
    def delete(self, vm: str, fault: tuple[str, str] | None) -> None:
        self._command(vm, "delete", fault)
        assert self._command(vm, "delete", None) in (None, ErrorCode.UNKNOWN_VM)

    @invariant()
    def the_store_tells_the_truth(self) -> None:
        if not hasattr(self, "root"):
            return

        rows = asyncio.run(self._rows())
        running = {row.handles.run_dir for row in rows if row.state is VMState.RUNNING}
        owned = running | {row.handles.vm_dir for row in rows}
        assert {row.state for row in rows} <= {VMState.RUNNING, VMState.STOPPED}
        assert set(self.processes.alive) == running
        assert set(leftovers(self.root, self.processes)) <= owned
        assert all(_has_disks(row.handles) for row in rows)

    def _command(self, vm: str, verb: str, fault: tuple[str, str] | None) -> ErrorCode | str | None:
        async def work() -> ErrorCode | str | None:
            async with daemon(self.root, self.processes, hook=_failing_at(fault)) as life:
                try:
                    operation = await getattr(life.vms, verb)(vm)
                except CallerError as error:
                    return error.code

                return failed_with(await life.done(operation))

        return asyncio.run(work())

    async def _rows(self) -> list[VMRow]:
        async with daemon(self.root, self.processes) as life:
            await life.quiet()
            return await life.site.store.vms()


def _failing_at(fault: tuple[str, str] | None) -> Hook:
    if fault is None:
        return no_hook

    async def hook(label: str, step: str) -> None:
        if (label, step) == fault:
            raise PermanentError(ErrorCode.INTERNAL, "injected")

    return hook


AnyOrderWithFaults.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestAnyOrderWithFaults = AnyOrderWithFaults.TestCase
