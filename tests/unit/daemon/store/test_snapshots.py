"""The store: snapshots and templates, and what they keep from being removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.unit.daemon.rows import snapshot_row, template_row, vm_row

from banger.api.errors import CallerError, ErrorCode
from banger.daemon.store import Store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "state.db")
    await store.insert_vm(vm_row(1), [])
    yield store
    await store.close()


async def test_snapshots_are_listed_oldest_first_by_their_vm(store: Store) -> None:
    await store.insert_vm(vm_row(2), [])
    late, early = snapshot_row(2, vm_row(1), name="b"), snapshot_row(1, vm_row(1), name="a")
    other = snapshot_row(3, vm_row(2), name="a")
    for row in (late, early, other):
        await store.insert_snapshot(row)

    assert await store.snapshots(vm_row(1).id) == [early, late]
    assert await store.snapshots() == [early, late, other]


async def test_a_name_belongs_to_one_snapshot_of_a_vm_and_the_nameless_are_many(
    store: Store,
) -> None:
    await store.insert_snapshot(snapshot_row(1, vm_row(1), name="a"))
    await store.insert_snapshot(snapshot_row(2, vm_row(1)))
    await store.insert_snapshot(snapshot_row(3, vm_row(1)))
    with pytest.raises(CallerError) as refused:
        await store.insert_snapshot(snapshot_row(4, vm_row(1), name="a"))

    assert refused.value.code is ErrorCode.NAME_TAKEN


async def test_there_is_no_snapshot_of_a_vm_that_is_gone(store: Store) -> None:
    with pytest.raises(CallerError) as refused:
        await store.insert_snapshot(snapshot_row(1, vm_row(9), name="a"))

    assert refused.value.code is ErrorCode.UNKNOWN_VM


async def test_a_vm_takes_its_snapshots_along(store: Store) -> None:
    await store.insert_snapshot(snapshot_row(1, vm_row(1), name="a"))
    await store.delete_vm(vm_row(1).id)
    assert await store.snapshots() == []


async def test_templates_are_listed_the_one_used_last_first(store: Store) -> None:
    old, new = template_row(1, used_at=1.0), template_row(2, used_at=2.0)
    for row in (old, new):
        await store.save_template(row)

    assert await store.templates() == [new, old]
    used = msgspec.structs.replace(old, used_at=3.0)
    await store.save_template(used)
    assert await store.templates() == [used, new]
    await store.delete_template(used.key)
    assert await store.templates() == [new]


async def test_images_and_kernels_of_snapshots_and_templates_are_in_use(store: Store) -> None:
    await store.insert_snapshot(snapshot_row(1, vm_row(1)))
    await store.save_template(template_row(2))
    assert await store.images_in_use() == {
        "image-1", "image-of-snapshot-1", "image-of-template-2",
    }  # fmt: skip
    assert await store.kernels_in_use() == {
        "kernel-1", "kernel-of-snapshot-1", "kernel-of-template-2",
    }  # fmt: skip


async def test_a_census_has_all_that_owns_files(store: Store) -> None:
    snapshot, template = snapshot_row(1, vm_row(1)), template_row(2)
    await store.insert_snapshot(snapshot)
    await store.save_template(template)
    census = await store.census()
    assert (census.vms, census.snapshots, census.templates) == (
        [vm_row(1)], [snapshot], [template],
    )  # fmt: skip
