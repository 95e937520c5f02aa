"""Garbage: all of it goes and is named, nothing else does, whatever goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.unit.daemon.snapshots.disks import read, write
from tests.unit.daemon.vms.world import (
    Daemon,
    Processes,
    daemon,
    failed_with,
    leftovers,
    paths_below,
)

from banger.api.models import CreateSnapshot, ForkVM
from banger.daemon import gc
from banger.daemon.store.rows import DiskFile, Layers
from banger.hypervisor.base import VMMHandle
from banger.storage.qcow2 import Qcow2

STRANGER = "0123456789ab"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path, Processes()) as life:
        assert failed_with(await life.create("dev")) is None
        yield life


def files(root: Path) -> set[Path]:
    paths = paths_below(root)
    places = (paths.disks, paths.vms, paths.snapshots, paths.vm_run)
    return {entry for place in places if place.exists() for entry in place.iterdir()}


async def test_what_rows_speak_of_stays(host: Daemon, tmp_path: Path) -> None:
    await host.done(await host.snapshots.create("dev", CreateSnapshot(name="first")))
    await host.done(await host.snapshots.fork("dev", ForkVM()))
    before = files(tmp_path)
    found = await host.collector.collect()

    assert (found.removed, found.freed_bytes) == ((), 0)
    assert files(tmp_path) == before


async def test_what_no_row_speaks_of_goes_and_is_named(host: Daemon, tmp_path: Path) -> None:
    before = files(tmp_path)
    paths = paths_below(tmp_path)
    layer = paths.disks / f"{STRANGER}.raw"
    layer.write_bytes(b"x" * 8192)
    top = paths.disks / f"{STRANGER[::-1]}.qcow2"
    await Qcow2().overlay(layer, top)
    (paths.disks / f"{STRANGER}.qcow2.part").write_bytes(b"")
    for place in (paths.vms, paths.snapshots, paths.vm_run):
        (place / STRANGER / "deep").mkdir(parents=True)
        (place / STRANGER / "deep" / "file").write_bytes(b"x" * 4096)

    found = await host.collector.collect()
    assert set(found.removed) == {
        f"disks/{STRANGER}.raw",
        f"disks/{STRANGER[::-1]}.qcow2",
        f"disks/{STRANGER}.qcow2.part",
        f"vms/{STRANGER}",
        f"snapshots/{STRANGER}",
        f"vm/{STRANGER}",
    }
    assert found.freed_bytes >= 8192
    assert files(tmp_path) - {paths.snapshots} == before


async def test_a_vmm_that_belongs_to_nothing_is_ended(host: Daemon, tmp_path: Path) -> None:
    run_dir = paths_below(tmp_path).vm_run / STRANGER
    run_dir.mkdir()
    stray = VMMHandle(
        pid=1, start_time=1, executable="vmm", run_dir=str(run_dir), accelerator="tcg"
    )
    host.hypervisor.processes.alive[str(run_dir)] = stray
    await host.collector.collect()
    assert not host.hypervisor.alive(stray)
    assert not run_dir.exists()


async def test_a_chain_nobody_can_follow_keeps_every_layer(host: Daemon, tmp_path: Path) -> None:
    stray = paths_below(tmp_path).disks / f"{STRANGER}.raw"
    stray.write_bytes(b"")
    top = Path((await host.site.store.find_vm("dev")).handles.disks.root.path)
    content = top.read_bytes()
    top.write_bytes(b"not a disk")
    assert (await host.collector.collect()).removed == ()
    top.write_bytes(content)
    assert (await host.collector.collect()).removed == (f"disks/{stray.name}",)


async def test_a_deletion_is_cleaned_up_after(
    host: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "SOON_SECONDS", 0.0)
    host.collector.begin()
    await host.done(await host.snapshots.create("dev", CreateSnapshot(name="first")))
    await host.done(await host.vms.delete("dev"))
    async with asyncio.timeout(20):
        while files(tmp_path):  # noqa: ASYNC110 - nothing tells when it is done
            await asyncio.sleep(0.01)


async def test_collecting_all_the_time_harms_nothing(tmp_path: Path) -> None:
    processes = Processes()
    async with daemon(tmp_path, processes) as life:

        async def collect() -> None:
            while True:
                await life.collector.collect()

        collecting = asyncio.create_task(collect())
        await life.create("dev")
        for number in range(1, 4):
            await write(life, "dev", "work", 0, number)
            kept = await life.snapshots.create("dev", CreateSnapshot(name=f"s{number}"))
            assert failed_with(await life.done(kept)) is None
            forked = await life.done(await life.snapshots.fork("dev", ForkVM(count=3)))
            assert failed_with(forked) is None
            for child in forked.made[1:]:
                assert failed_with(await life.done(await life.vms.delete(child))) is None

            assert await read(life, forked.made[0], "work", 1) == [number]

        for number in range(1, 4):
            snapshot = await life.snapshots.fork("dev", ForkVM(snapshot=f"s{number}"))
            (child,) = (await life.done(snapshot)).made
            assert await read(life, child, "work", 1) == [number]
            assert failed_with(await life.done(await life.vms.restart(child))) is None

        collecting.cancel()
        for vm in await life.vms.list():
            assert failed_with(await life.done(await life.vms.delete(vm.name))) is None

        await life.collector.collect()
        assert leftovers(tmp_path, processes) == []
        assert files(tmp_path) == set()


async def test_disks_that_lie_in_the_vms_own_directory_move_before_they_are_shared(
    host: Daemon, tmp_path: Path
) -> None:
    row = await host.site.store.find_vm("dev")
    await write(host, "dev", "root", 0, 5)
    await host.done(await host.vms.stop("dev"))
    row = await host.site.store.find_vm("dev")
    old = Layers(
        root=DiskFile(path=f"{row.handles.vm_dir}/root.qcow2", format="qcow2"),
        work=DiskFile(path=f"{row.handles.vm_dir}/work.raw", format="raw"),
    )
    Path(row.handles.disks.root.path).rename(old.root.path)
    Path(row.handles.disks.work.path).rename(old.work.path)
    handles = msgspec.structs.replace(row.handles, disks=old)
    await host.site.store.save_vm(msgspec.structs.replace(row, handles=handles))
    await host.done(await host.vms.start("dev"))

    (child,) = (await host.done(await host.snapshots.fork("dev", ForkVM()))).made
    await host.done(await host.vms.delete("dev"))
    await host.collector.collect()
    assert await read(host, child, "root", 1) == [5]
    assert [path.name for path in paths_below(tmp_path).vms.iterdir()] == [
        (await host.site.store.find_vm(child)).id
    ]
