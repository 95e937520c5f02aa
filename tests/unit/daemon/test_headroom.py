"""Guests stand still while the disk is nearly full, and go on as if nothing had been."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.daemon.vms.world import Daemon, Processes, daemon, failed_with

from banger.api.models import VM, CreateVM, VMState
from banger.api.sizes import GIB, MIB
from banger.daemon.headroom import NEARLY_FULL, Headroom
from banger.daemon.vms.start import Ready
from banger.host.resources import Room, measure_room

PLENTY = Room(total=100 * GIB, free=50 * GIB)
SCARCE = Room(total=100 * GIB, free=900 * MIB)
BETWEEN = Room(total=100 * GIB, free=1100 * MIB)


@pytest.fixture
async def host(tmp_path: Path, processes: Processes) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path, processes) as life:
        assert failed_with(await life.create("dev")) is None
        yield life


class Disk:
    """A disk with as much room as is said."""

    def __init__(self, host: Daemon, room: Room = PLENTY) -> None:
        self.room = room
        self.host = host
        self.headroom = Headroom(host.site, host.locks, host.watch, lambda _: self.room)

    async def look(self, room: Room) -> VM:
        self.room = room
        await self.headroom.look()
        await self.host.watch.settled()
        return await self.host.vms.show("dev")


async def test_a_guest_stands_still_while_room_is_scarce_and_says_why(host: Daemon) -> None:
    disk = Disk(host)
    pid = (await disk.look(PLENTY)).pid
    vm = await disk.look(SCARCE)
    assert (vm.state, vm.reason, vm.pid) == (VMState.PAUSED, NEARLY_FULL, pid)

    vm = await disk.look(PLENTY)
    assert (vm.state, vm.reason, vm.pid) == (VMState.RUNNING, None, pid)


async def test_it_does_not_go_on_for_a_little_room(host: Daemon) -> None:
    disk = Disk(host)
    await disk.look(SCARCE)
    assert (await disk.look(BETWEEN)).state is VMState.PAUSED
    assert (await disk.look(PLENTY)).state is VMState.RUNNING


async def test_a_guest_that_runs_is_not_stopped_for_what_is_left_above_the_reserve(
    host: Daemon,
) -> None:
    disk = Disk(host)
    await disk.look(PLENTY)
    assert (await disk.look(BETWEEN)).state is VMState.RUNNING


async def test_what_a_user_has_paused_stays_paused(host: Daemon) -> None:
    await host.done(await host.vms.pause("dev"))
    disk = Disk(host)
    await disk.look(SCARCE)
    vm = await disk.look(PLENTY)
    assert (vm.state, vm.reason) == (VMState.PAUSED, None)


async def test_whoever_resumes_a_guest_meanwhile_sees_it_stand_still_again(host: Daemon) -> None:
    disk = Disk(host)
    await disk.look(SCARCE)
    assert failed_with(await host.done(await host.vms.resume("dev"))) is None
    assert (await disk.look(SCARCE)).reason == NEARLY_FULL


async def test_the_next_daemon_lets_go_on_what_the_last_one_stopped(
    tmp_path: Path, processes: Processes
) -> None:
    async with daemon(tmp_path, processes) as life:
        assert failed_with(await life.create("dev")) is None
        await Disk(life).look(SCARCE)

    async with daemon(tmp_path, processes) as life:
        assert (await Disk(life).look(BETWEEN)).state is VMState.PAUSED
        assert (await Disk(life).look(PLENTY)).state is VMState.RUNNING


async def test_a_guest_that_boots_stands_still_too_and_then_boots_on(
    tmp_path: Path, processes: Processes
) -> None:
    """Whoever started it waits; it is not in its row."""
    reached, onward = asyncio.Event(), asyncio.Event()

    async def hook(label: str, step: str) -> None:
        if (label, step) == ("start", Ready.name):
            reached.set()
            await onward.wait()

    async with daemon(tmp_path, processes, hook=hook) as life:
        operation = await life.vms.create(CreateVM(name="dev"))
        await reached.wait()
        disk = Disk(life)
        assert (await disk.look(SCARCE)).state is VMState.STARTING
        assert all(guest.paused for guest in processes.guests.values())

        await disk.look(PLENTY)
        assert not any(guest.paused for guest in processes.guests.values())
        onward.set()
        assert failed_with(await life.done(operation)) is None
        assert (await life.vms.show("dev")).state is VMState.RUNNING


async def test_it_looks_by_itself_until_it_is_closed(host: Daemon) -> None:
    disk = Disk(host, SCARCE)
    disk.headroom.begin()
    async with asyncio.timeout(30):
        while (await host.vms.show("dev")).state is not VMState.PAUSED:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)

    await disk.headroom.close()


@given(st.integers(0, 2**50))
def test_a_reserve_leaves_most_of_a_disk_alone(total: int) -> None:
    reserve = Room(total, 0).reserve
    assert 0 <= reserve <= GIB
    assert reserve * 20 <= total


def test_the_room_of_a_directory_is_its_file_systems(tmp_path: Path) -> None:
    room = measure_room(tmp_path)
    assert 0 < room.free <= room.total
