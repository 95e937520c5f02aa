"""The store: VMs and what is leased to them, found again by those who remember only a part."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.daemon.rows import vm_row

from banger.api.errors import BangerError, CallerError, ErrorBody, ErrorCode, ErrorKind
from banger.api.models import Operation, OperationState, Stage, VMState
from banger.daemon.store import Lease, LeaseTaken, Store
from banger.daemon.store import store as store_module

INTERRUPTED = ErrorBody(ErrorCode.INTERRUPTED, "the daemon stopped", ErrorKind.TRANSIENT)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "state.db")
    yield store
    await store.close()


def operation(
    number: int, state: OperationState = OperationState.SUCCEEDED, stages: tuple[Stage, ...] = ()
) -> Operation:
    return Operation(
        id=f"op-{number:010x}",
        kind="vm.start",
        state=state,
        started_at=float(number),
        stages=stages,
    )


def modes_in(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def blocks_in(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_blocks for path in directory.iterdir()}


async def test_a_vm_comes_back_as_it_was_put_in(store: Store) -> None:
    await store.insert_vm(vm_row(1), [Lease("port", "42001"), Lease("address", "10.213.0.5")])
    assert await store.vm(vm_row(1).id) == vm_row(1)
    assert await store.leases("port") == {"42001"}
    assert await store.leases("address") == {"10.213.0.5"}
    assert await store.images_in_use() == {"image-1"}
    assert await store.kernels_in_use() == {"kernel-1"}


async def test_all_is_still_there_after_closing_and_opening(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "state.db")
    await store.insert_vm(vm_row(1), [Lease("port", "42001")])
    await store.save_operation(operation(1))
    await store.close()
    store = await Store.open(tmp_path / "state.db")
    assert await store.vms() == [vm_row(1)]
    assert await store.leases("port") == {"42001"}
    assert await store.operation(operation(1).id) == operation(1)
    await store.close()


async def test_only_the_owner_can_read_it(store: Store, tmp_path: Path) -> None:
    await store.insert_vm(vm_row(1), [])
    modes = modes_in(tmp_path)
    assert set(modes) >= {"state.db", "state.db-wal"}
    assert set(modes.values()) == {0o600}


async def test_a_name_is_used_once(store: Store) -> None:
    await store.insert_vm(vm_row(1, name="dev"), [])
    with pytest.raises(CallerError) as caught:
        await store.insert_vm(vm_row(2, name="dev"), [Lease("port", "42002")])

    assert caught.value.code is ErrorCode.NAME_TAKEN
    assert await store.vms() == [vm_row(1, name="dev")]
    assert await store.leases("port") == set()


async def test_a_vm_is_not_renamed_to_a_name_in_use(store: Store) -> None:
    await store.insert_vm(vm_row(1, name="dev"), [])
    await store.insert_vm(vm_row(2, name="test"), [])
    with pytest.raises(CallerError) as caught:
        await store.save_vm(vm_row(2, name="dev"))

    assert caught.value.code is ErrorCode.NAME_TAKEN
    assert (await store.find_vm("test")).id == vm_row(2).id


async def test_a_taken_lease_is_named_and_nothing_is_inserted(store: Store) -> None:
    await store.insert_vm(vm_row(1), [Lease("port", "42001")])
    with pytest.raises(LeaseTaken) as caught:
        await store.insert_vm(vm_row(2), [Lease("address", "10.0.0.1"), Lease("port", "42001")])

    assert caught.value.lease == Lease("port", "42001")
    assert await store.vm(vm_row(2).id) is None
    assert await store.leases("address") == set()


async def test_leases_are_replaced_all_or_none(store: Store) -> None:
    await store.insert_vm(vm_row(1), [Lease("port", "1")])
    await store.insert_vm(vm_row(2), [Lease("port", "2")])
    with pytest.raises(LeaseTaken):
        await store.set_leases(vm_row(2).id, [Lease("port", "3"), Lease("port", "1")])

    assert await store.leases("port") == {"1", "2"}
    await store.set_leases(vm_row(2).id, [Lease("port", "3")])
    assert await store.leases("port") == {"1", "3"}


async def test_leases_go_with_their_vm(store: Store) -> None:
    await store.insert_vm(vm_row(1), [Lease("port", "1"), Lease("address", "10.0.0.1")])
    await store.delete_vm(vm_row(1).id)
    await store.delete_vm(vm_row(1).id)
    assert await store.leases("port") | await store.leases("address") == set()
    assert await store.vms() == []


async def test_a_deleted_vm_is_not_brought_back_by_saving_it(store: Store) -> None:
    with pytest.raises(CallerError) as caught:
        await store.save_vm(vm_row(1))

    assert caught.value.code is ErrorCode.UNKNOWN_VM
    with pytest.raises(CallerError):
        await store.set_leases(vm_row(1).id, [Lease("port", "1")])

    assert await store.vms() == []


async def test_saving_replaces_the_row(store: Store) -> None:
    await store.insert_vm(vm_row(1), [])
    changed = msgspec.structs.replace(vm_row(1, name="new"), state=VMState.RUNNING)
    await store.save_vm(changed)
    assert await store.vms() == [changed]
    assert await store.find_vm("new") == changed


async def test_a_vm_is_found_by_name_then_id_then_unique_beginning(store: Store) -> None:
    await store.insert_vm(vm_row(vm_id="aaa000000001", name="one"), [])
    await store.insert_vm(vm_row(vm_id="aab000000002", name="two"), [])
    # A name may look like the beginning of another VM's id; the name is meant.
    await store.insert_vm(vm_row(vm_id="fff000000003", name="aab"), [])
    assert (await store.find_vm("one")).name == "one"
    assert (await store.find_vm("aab000000002")).name == "two"
    assert (await store.find_vm("aaa")).name == "one"
    assert (await store.find_vm("aab")).name == "aab"


async def test_a_beginning_of_several_ids_names_them(store: Store) -> None:
    await store.insert_vm(vm_row(vm_id="aaa000000001", name="one"), [])
    await store.insert_vm(vm_row(vm_id="aab000000002", name="two"), [])
    with pytest.raises(CallerError) as caught:
        await store.find_vm("aa")

    assert caught.value.code is ErrorCode.AMBIGUOUS_VM
    assert "aaa000000001 (one), aab000000002 (two)" in caught.value.message


@given(refs=st.lists(st.text(), min_size=20))
@settings(max_examples=10)
async def test_whatever_is_asked_for_what_is_not_there_is_unknown(
    tmp_path_factory: pytest.TempPathFactory, refs: list[str]
) -> None:
    store = await Store.open(tmp_path_factory.mktemp("store") / "state.db")
    for ref in refs:
        with pytest.raises(CallerError) as caught:
            await store.find_vm(ref)

        assert caught.value.code is ErrorCode.UNKNOWN_VM
        assert "\n" not in caught.value.message

    await store.close()


async def test_64_at_once_get_64_different_ports(store: Store) -> None:
    async def create(number: int) -> None:
        while True:
            taken = await store.leases("port")
            free = next(port for port in range(42000, 43000) if str(port) not in taken)
            try:
                return await store.insert_vm(vm_row(number), [Lease("port", str(free))])
            except LeaseTaken:
                await asyncio.sleep(0)

    await asyncio.gather(*(create(number) for number in range(64)))
    assert await store.leases("port") == {str(port) for port in range(42000, 42064)}
    assert len(await store.vms()) == 64


async def test_of_64_at_once_with_one_name_one_gets_it(store: Store) -> None:
    inserts = (store.insert_vm(vm_row(number, name="dev"), []) for number in range(64))
    outcomes = await asyncio.gather(*inserts, return_exceptions=True)
    assert outcomes.count(None) == 1
    assert all(isinstance(outcome, CallerError) for outcome in outcomes if outcome is not None)


async def test_a_write_that_was_asked_for_happens_before_what_its_cancelled_asker_does_next(
    store: Store,
) -> None:
    insert = asyncio.create_task(store.insert_vm(vm_row(1), []))
    await asyncio.sleep(0)
    insert.cancel()
    with pytest.raises(asyncio.CancelledError):
        await insert

    await store.delete_vm(vm_row(1).id)
    assert await store.vms() == []


async def test_operations_are_listed_newest_first(store: Store) -> None:
    for number in (2, 3, 1):
        await store.save_operation(operation(number))

    assert await store.operations(2) == [operation(3), operation(2)]


async def test_what_was_running_when_the_daemon_died_is_failed(store: Store) -> None:
    stages = (Stage(name="boot", started_at=5.0),)
    await store.save_operation(operation(1, OperationState.RUNNING, stages))
    await store.save_operation(operation(2))
    assert await store.interrupt_operations(INTERRUPTED, 9.0) == 1
    ended = await store.operation(operation(1).id)
    assert ended is not None
    assert (ended.state, ended.finished_at) == (OperationState.FAILED, 9.0)
    assert ended.stages == (Stage(name="boot", started_at=5.0, finished_at=9.0),)
    assert ended.error == msgspec.structs.replace(INTERRUPTED, operation=operation(1).id)
    assert await store.operation(operation(2).id) == operation(2)
    assert await store.interrupt_operations(INTERRUPTED, 10.0) == 0


async def test_old_operations_are_forgotten_but_never_a_running_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "OPERATIONS_KEPT", 3)
    await store.save_operation(operation(0, OperationState.RUNNING))
    for number in range(1, 10):
        await store.save_operation(operation(number))

    kept = [found.started_at for found in await store.operations(100)]
    assert kept == [9.0, 8.0, 7.0, 0.0]


async def test_a_row_that_does_not_read_is_said_to_be_corrupt(store: Store) -> None:
    await store.insert_vm(vm_row(1), [])
    await store._database.write(lambda database: database.execute("UPDATE vms SET body = x'7b'"))
    with pytest.raises(BangerError) as caught:
        await store.vms()

    assert caught.value.code is ErrorCode.STATE_CORRUPT


async def test_changes_need_no_block_that_a_greedy_guest_could_take_first(
    store: Store, tmp_path: Path
) -> None:
    await store.insert_vm(vm_row(1), [Lease("port", "42001")])
    before = blocks_in(tmp_path)
    for number in range(200):
        await store.save_vm(msgspec.structs.replace(vm_row(1), updated_at=float(number)))
        if number < 20:
            await store.save_operation(operation(number))

    await store.delete_vm(vm_row(1).id)

    after = blocks_in(tmp_path)
    assert after == before
