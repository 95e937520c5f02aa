"""Operations: what is seen of them, how they end, and that they always do."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import CallerError, ErrorCode, ErrorKind, PermanentError, TransientError
from banger.api.models import Operation, OperationState
from banger.daemon.log import current_operation
from banger.daemon.operations import Operations, Progress
from banger.daemon.store import Store

TARGET = {"target": "0123456789ab", "target_name": "dev"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "state.db")
    yield store
    await store.close()


@pytest.fixture
async def operations(store: Store) -> AsyncIterator[Operations]:
    operations = Operations(store)
    yield operations
    await operations.close()


class Gate:
    """A body that waits to be let through, and says how it was left."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.rolled_back = False

    async def __call__(self, progress: Progress) -> None:
        self.entered.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            self.rolled_back = True
            raise


async def succeed(progress: Progress) -> None:
    progress.stage("one")


async def test_an_operation_is_running_when_it_is_handed_out(operations: Operations) -> None:
    gate = Gate()
    operation = await operations.start("vm.start", gate, **TARGET)
    assert operation.state is OperationState.RUNNING
    assert operation.kind == "vm.start"
    assert (operation.target, operation.target_name) == ("0123456789ab", "dev")
    assert operation.id.startswith("op-")
    assert len(operation.id) == 13
    assert operations.running() == 1
    gate.open.set()
    assert (await operations.wait(operation.id)).state is OperationState.SUCCEEDED
    assert operations.running() == 0


async def test_stages_follow_one_another_and_end_with_the_operation(operations: Operations) -> None:
    async def body(progress: Progress) -> None:
        progress.detail("said before any stage: to nobody")
        progress.stage("disks")
        progress.stage("boot", "waiting")
        progress.detail("ready")
        progress.set_target("ffffffffffff", "later")

    started = await operations.start("vm.create", body, target=None, target_name=None)
    final = await operations.wait(started.id)
    assert [(stage.name, stage.detail) for stage in final.stages] == [
        ("disks", None),
        ("boot", "ready"),
    ]
    assert final.stages[0].finished_at == final.stages[1].started_at
    assert final.stages[1].finished_at == final.finished_at
    assert (final.target, final.target_name) == ("ffffffffffff", "later")


async def test_an_error_of_the_body_is_the_operations(operations: Operations) -> None:
    async def body(progress: Progress) -> None:
        progress.stage("boot")
        raise PermanentError(ErrorCode.LAUNCH_FAILED, "no", hint="try: yes")

    started = await operations.start("vm.start", body, **TARGET)
    final = await operations.wait(started.id)
    assert final.state is OperationState.FAILED
    assert final.error is not None
    assert (final.error.code, final.error.hint) == (ErrorCode.LAUNCH_FAILED, "try: yes")
    assert final.error.operation == started.id
    assert final.stages[0].finished_at is not None


async def test_an_unexpected_error_is_logged_with_its_traceback_and_id(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    operations = Operations(store, log_file=Path("/state/bangerd.log"))

    async def body(progress: Progress) -> None:
        raise ZeroDivisionError

    started = await operations.start("vm.start", body, **TARGET)
    final = await operations.wait(started.id)
    assert final.error is not None
    assert final.error.code is ErrorCode.INTERNAL
    assert final.error.kind is ErrorKind.OUTCOME_UNKNOWN
    assert f"grep {started.id} /state/bangerd.log" in (final.error.hint or "")
    assert any(record.exc_info for record in caplog.records)


async def test_cancelling_waits_for_the_rollback(operations: Operations) -> None:
    gate = Gate()
    started = await operations.start("vm.start", gate, **TARGET)
    await gate.entered.wait()
    final = await operations.cancel(started.id)
    assert gate.rolled_back
    assert final.state is OperationState.CANCELLED
    assert final.error is not None
    assert final.error.code is ErrorCode.CANCELLED


async def test_cancelling_twice_does_not_cut_the_rollback_short(operations: Operations) -> None:
    gate = Gate()
    started = await operations.start("vm.start", gate, **TARGET)
    await gate.entered.wait()
    finals = await asyncio.gather(*(operations.cancel(started.id) for _ in range(3)))
    assert gate.rolled_back
    assert {final.state for final in finals} == {OperationState.CANCELLED}


async def test_an_operation_cancelled_before_its_first_step_never_runs(
    operations: Operations,
) -> None:
    gate = Gate()
    started = await operations.start("vm.start", gate, **TARGET)
    final = await operations.cancel(started.id)
    assert final.state is OperationState.CANCELLED
    assert not gate.entered.is_set()


async def test_what_finished_in_spite_of_a_cancel_has_succeeded(operations: Operations) -> None:
    gate = Gate()

    async def stubborn(progress: Progress) -> None:
        try:
            await gate(progress)
        except asyncio.CancelledError:
            progress.stage("too late to go back")

    started = await operations.start("vm.delete", stubborn, **TARGET)
    await gate.entered.wait()
    assert (await operations.cancel(started.id)).state is OperationState.SUCCEEDED


async def test_cancelling_what_has_ended_changes_nothing(operations: Operations) -> None:
    started = await operations.start("vm.start", succeed, **TARGET)
    final = await operations.wait(started.id)
    assert await operations.cancel(started.id) == final


async def test_a_client_that_leaves_does_not_end_the_operation(operations: Operations) -> None:
    gate = Gate()
    started = await operations.start("vm.start", gate, **TARGET)
    waiter = asyncio.create_task(operations.wait(started.id))
    await gate.entered.wait()
    waiter.cancel()
    await asyncio.wait([waiter])
    gate.open.set()
    assert (await operations.wait(started.id)).state is OperationState.SUCCEEDED


async def test_events_begin_with_now_and_end_with_the_end(operations: Operations) -> None:
    gate = Gate()

    async def body(progress: Progress) -> None:
        progress.stage("one")
        await gate(progress)
        progress.stage("two")

    started = await operations.start("vm.start", body, **TARGET)
    seen: list[Operation] = []
    async for operation in operations.events(started.id):
        seen.append(operation)
        if operation.stages:
            gate.open.set()

    assert seen[0] == started
    assert seen[-1] == await operations.get(started.id)
    assert seen[-1].state is OperationState.SUCCEEDED
    assert all(operation.state is OperationState.RUNNING for operation in seen[:-1])


async def test_a_slow_reader_of_events_still_sees_the_last(operations: Operations) -> None:
    async def chatty(progress: Progress) -> None:
        progress.stage("talk")
        for number in range(1000):
            progress.detail(str(number))

    started = await operations.start("vm.start", chatty, **TARGET)
    seen: list[Operation] = []
    async for operation in operations.events(started.id):
        seen.append(operation)
        await operations.wait(started.id)

    assert len(seen) == 2
    assert seen[-1].state is OperationState.SUCCEEDED


async def test_an_ended_operation_is_remembered_by_the_next_daemon(
    operations: Operations, store: Store
) -> None:
    started = await operations.start("vm.start", succeed, **TARGET)
    final = await operations.wait(started.id)
    later = Operations(store)
    assert await later.get(started.id) == final
    assert await later.wait(started.id) == final
    assert [operation async for operation in later.events(started.id)] == [final]


async def test_a_running_operation_is_on_record(operations: Operations, store: Store) -> None:
    gate = Gate()
    started = await operations.start("vm.start", gate, **TARGET)
    await gate.entered.wait()
    await store.vms()
    assert await store.operation(started.id) == started


@pytest.mark.parametrize("method", ["get", "wait", "cancel"])
async def test_an_unknown_operation_is_an_error(operations: Operations, method: str) -> None:
    with pytest.raises(CallerError) as caught:
        await getattr(operations, method)("op-0000000000")

    assert caught.value.code is ErrorCode.UNKNOWN_OPERATION


async def test_a_list_has_the_running_ones_as_they_are_now_and_the_newest_first(
    operations: Operations,
) -> None:
    gate = Gate()
    first = await operations.start("vm.start", succeed, **TARGET)
    await operations.wait(first.id)
    second = await operations.start("vm.stop", gate, **TARGET)
    assert [operation.id for operation in await operations.list()] == [second.id, first.id]
    assert [operation.id for operation in await operations.list(1)] == [second.id]
    gate.open.set()


async def test_closing_interrupts_what_runs_and_starts_nothing_more(store: Store) -> None:
    operations = Operations(store)
    gate = Gate()
    started = await operations.start("vm.start", gate, **TARGET)
    await gate.entered.wait()
    await operations.close()
    assert gate.rolled_back
    recorded = await store.operation(started.id)
    assert recorded is not None
    assert recorded.state is OperationState.FAILED
    assert recorded.error is not None
    assert recorded.error.code is ErrorCode.INTERRUPTED
    with pytest.raises(TransientError):
        await operations.start("vm.start", gate, **TARGET)


async def test_closing_does_not_wait_for_ever(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    operations = Operations(store)
    release = asyncio.Event()

    async def stuck(progress: Progress) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()

    started = await operations.start("vm.start", stuck, **TARGET)
    await asyncio.sleep(0)
    await operations.close(timeout=0.01)
    assert "not rolled back" in caplog.text
    release.set()
    assert (await operations.wait(started.id)).state is OperationState.FAILED


async def test_an_operation_that_cannot_be_recorded_runs_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(operation: Operation) -> None:
        raise PermanentError(ErrorCode.INSUFFICIENT_DISK, "disk full")

    monkeypatch.setattr(store, "save_operation", full)
    operations = Operations(store)
    started = await operations.start("vm.stop", succeed, **TARGET)
    final = await operations.wait(started.id)
    assert final.state is OperationState.SUCCEEDED
    assert await operations.get(started.id) == final
    assert operations.running() == 0


async def test_what_is_logged_inside_carries_the_id(operations: Operations) -> None:
    seen: list[str | None] = []

    async def body(progress: Progress) -> None:
        logging.getLogger("banger").info("inside")
        seen.append(current_operation.get())
        await asyncio.create_task(deeper())

    async def deeper() -> None:
        seen.append(current_operation.get())

    started = await operations.start("vm.start", body, **TARGET)
    await operations.wait(started.id)
    assert seen == [started.id, started.id]
    assert current_operation.get() is None


@given(
    st.lists(st.sampled_from(["stage", "detail", "target", "yield"]), max_size=20), st.booleans()
)
async def test_whatever_a_body_does_its_record_is_whole(actions: list[str], fails: bool) -> None:
    async def body(progress: Progress) -> None:
        for number, action in enumerate(actions):
            match action:
                case "stage":
                    progress.stage(f"stage {number}")
                case "detail":
                    progress.detail(str(number))
                case "target":
                    progress.set_target(str(number), "name")
                case _:
                    await asyncio.sleep(0)

        if fails:
            raise PermanentError(ErrorCode.TOOL_FAILED, "no")

    operations = Operations(_Memory())  # type: ignore[arg-type]
    started = await operations.start("vm.start", body, target=None, target_name=None)
    seen = [operation async for operation in operations.events(started.id)]
    final = seen[-1]
    assert final.state is (OperationState.FAILED if fails else OperationState.SUCCEEDED)
    assert len(final.stages) == actions.count("stage")
    assert all(stage.finished_at is not None for stage in final.stages)
    for operation in seen[:-1]:
        assert all(stage.finished_at is not None for stage in operation.stages[:-1])

    for earlier, later in itertools.pairwise(seen):
        names = [stage.name for stage in earlier.stages]
        assert [stage.name for stage in later.stages][: len(names)] == names


class _Memory:
    """As much of a store as an operation needs."""

    async def save_operation(self, operation: Operation) -> None:
        return
