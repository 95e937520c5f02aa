"""Guests of an installed host stand still while there is hardly any room left for what they write.

The root disk of such a guest is a device-mapper snapshot, which the kernel gives up for good when
its file cannot grow ("Invalid" in Linux's admin-guide/device-mapper/snapshot). A paused guest
writes nothing, so it loses nothing, and goes on when there is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from banger.api.errors import BangerError
from banger.api.models import VMState
from banger.api.sizes import MIB, format_size
from banger.daemon.store.rows import VMRow
from banger.daemon.vms.machine import Locks, Machine, Site
from banger.daemon.vms.pausing import pause, resume
from banger.daemon.vms.watch import Watch
from banger.host.resources import Room, measure_room
from banger.hypervisor.base import VMMHandle

log = logging.getLogger(__name__)

# The reason in the row of a guest that stands still for this.
NEARLY_FULL = "the host's disk is nearly full"

# Guests go on when there is so much more, so that they do not stop again at once.
_AGAIN = 1.25

# Nothing fills a disk faster, and nobody looks at it more often or more rarely, in bytes per second
# and seconds.
_RATE = 4096 * MIB
_OFTEN, _RARELY = 0.25, 10.0


class Headroom:
    """Looks at the room left, the more often the less it is, and pauses and resumes guests."""

    def __init__(
        self,
        site: Site,
        locks: Locks,
        watch: Watch,
        measured: Callable[[Path], Room] = measure_room,
    ) -> None:
        self._site = site
        self._locks = locks
        self._watch = watch
        self._measured = measured
        self._scarce = True
        self._stopping: set[str] = set()
        self._stopped: dict[str, VMMHandle] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Look from now on, until `close`."""
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Look no more. Guests that stand still do until the next daemon has looked."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def look(self) -> float:
        """Look once, and act; in how many seconds to look again."""
        room = self._measured(self._site.paths.state)
        if room.free < room.reserve:
            await self._hold(room)
        elif self._scarce and room.free >= room.reserve * _AGAIN:
            await self._let_go()

        return min(max((room.free - room.reserve) / _RATE, _OFTEN), _RARELY)

    async def _follow(self) -> None:
        while True:
            delay = _RARELY
            try:
                delay = await self.look()
            except (BangerError, OSError) as error:
                log.warning("the room on the host's disk is not known: %s", error)

            await asyncio.sleep(delay)

    async def _hold(self, room: Room) -> None:
        if not self._scarce:
            free, reserve = format_size(room.free), format_size(room.reserve)
            log.warning("guests stand still: %s free of %s kept in reserve", free, reserve)

        self._scarce = True
        for row in await self._site.store.vms():
            if row.handles.vmm is None or row.id in self._stopping:
                continue

            if row.state in (VMState.STARTING, VMState.STOPPING):
                await self._stop_now(row.id, row.handles.vmm)
            elif row.state is VMState.RUNNING:
                self._stopping.add(row.id)
                self._watch.spawn(self._stand_still(row.id))

    async def _stop_now(self, vm_id: str, handle: VMMHandle) -> None:
        """For a guest somebody waits for, with its lock: he waits on, and nothing is in its row."""
        if self._stopped.get(vm_id) == handle:
            return

        with contextlib.suppress(BangerError):
            await self._site.hypervisor.pause(handle)
            self._stopped[vm_id] = handle

    async def _stand_still(self, vm_id: str) -> None:
        try:
            async with self._locks.of(vm_id):
                row = await self._site.store.vm(vm_id)
                if row is None or row.state is not VMState.RUNNING:
                    return

                machine = Machine(self._site, row)
                await pause(machine)
                await machine.record(reason=NEARLY_FULL)
        except BangerError as error:
            log.warning("a guest that should stand still does not: %s", error)
        finally:
            self._stopping.discard(vm_id)

    async def _let_go(self) -> None:
        self._scarce = False
        for handle in self._stopped.values():
            with contextlib.suppress(BangerError):
                await self._site.hypervisor.resume(handle)

        self._stopped.clear()
        for row in await self._site.store.vms():
            if _held(row):
                self._watch.spawn(self._go_on(row.id))

    async def _go_on(self, vm_id: str) -> None:
        async with self._locks.of(vm_id):
            row = await self._site.store.vm(vm_id)
            if row is None or not _held(row):
                return

            log.info("VM %s goes on: there is room again", row.name)
            try:
                await resume(Machine(self._site, row))
            except BangerError as error:
                log.warning("VM %s does not go on: %s", row.name, error)


def _held(row: VMRow) -> bool:
    return row.state is VMState.PAUSED and row.reason == NEARLY_FULL
