"""What happens to a VM without anybody asking: its guest powers off, its VMM dies, its holder ends.

Nothing here polls: each watch is a pidfd in the event loop, or a request to a guest's agent that is
answered when something happens.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from banger.api.errors import BangerError
from banger.api.models import VMState
from banger.daemon.store.rows import VMRow
from banger.daemon.vms import lifecycle
from banger.daemon.vms.guest import follow_boots
from banger.daemon.vms.machine import Locks, Machine, Site
from banger.host.process import on_exit
from banger.hypervisor.base import ExitReason, VMMHandle

log = logging.getLogger(__name__)

_WITH_VMM = (VMState.RUNNING, VMState.PAUSED)

# The reason in the row of a VM that does not run because `vm kill` ended it.
KILLED = "killed"


class Watch:
    """Follows every running VM and every holder of a VM, and records what becomes of them."""

    def __init__(self, site: Site, locks: Locks) -> None:
        self._site = site
        self._locks = locks
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._boots: dict[str, asyncio.Task[None]] = {}
        self._holders: dict[str, Callable[[], None]] = {}
        self._killed: set[VMMHandle] = set()

    def killed(self, handle: VMMHandle) -> None:
        """Say that a VMM is about to be killed because somebody wants it."""
        self._killed.add(handle)

    def running(self, row: VMRow) -> None:
        """Follow the VMM of a VM until it ends; nothing if the VM does not run."""
        handle = row.handles.vmm
        if handle is None or row.state not in _WITH_VMM:
            return

        def ended(reason: ExitReason) -> None:
            self.spawn(self._ended(row.id, handle, reason))

        self._site.hypervisor.watch(handle, ended)
        self._boots[row.id] = asyncio.create_task(self._follow_boots(row, handle))

    def held(self, row: VMRow) -> None:
        """Delete the VM when the process that holds it has ended."""
        if row.holder is not None:
            forget = on_exit(row.holder, lambda: self.spawn(self._orphaned(row.id)))
            self._holders[row.id] = forget

    def forget(self, vm_id: str) -> None:
        """Stop following a VM that is deleted."""
        self._stop_boots(vm_id)
        unwatch = self._holders.pop(vm_id, None)
        if unwatch is not None:
            unwatch()

        self._locks.forget(vm_id)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in the background; it is not lost before it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def later(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """As `spawn`, after so many seconds, unless `close` comes first."""

        def begin() -> None:
            self._timers.discard(timer)
            self.spawn(work())

        timer = asyncio.get_running_loop().call_later(seconds, begin)
        self._timers.add(timer)

    async def settled(self) -> None:
        """Return when no background work is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Stop following anything; the VMs go on."""
        for timer in self._timers:
            timer.cancel()

        tasks = [*self._tasks, *self._boots.values()]
        for task in tasks:
            task.cancel()

        await asyncio.gather(*tasks, return_exceptions=True)
        for unwatch in self._holders.values():
            unwatch()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("background work failed", exc_info=task.exception())

    def _stop_boots(self, vm_id: str) -> None:
        task = self._boots.pop(vm_id, None)
        if task is not None:
            task.cancel()

    async def _ended(self, vm_id: str, handle: VMMHandle, reason: ExitReason) -> None:
        self._stop_boots(vm_id)
        async with self._locks.of(vm_id):
            row = await self._site.store.vm(vm_id)
            if row is None or row.state not in _WITH_VMM or row.handles.vmm != handle:
                self._killed.discard(handle)
                return

            killed = handle in self._killed
            log.info("VM %s ended: %s", row.name, KILLED if killed else reason)
            machine = Machine(self._site, row)
            try:
                if killed:
                    await lifecycle.release(machine, _silent, reason=KILLED)
                else:
                    await lifecycle.ended(machine, reason)
            except BangerError as error:
                log.warning("VM %s: %s", row.name, error)
            finally:
                self._killed.discard(handle)
                self.running(machine.row)

    async def _orphaned(self, vm_id: str) -> None:
        self._holders.pop(vm_id, None)
        async with self._locks.of(vm_id):
            row = await self._site.store.vm(vm_id)
            if row is None:
                return

            log.info("VM %s is deleted: the process that held it has ended", row.name)
            await lifecycle.delete(Machine(self._site, row), _silent)

        self.forget(vm_id)

    async def _follow_boots(self, row: VMRow, handle: VMMHandle) -> None:
        """A reboot inside the guest keeps the VMM."""

        async def tell(boot_id: str) -> None:
            async with self._locks.of(row.id):
                present = await self._site.store.vm(row.id)
                if present is not None and present.handles.vmm == handle:
                    await Machine(self._site, present).record(guest_boot_id=boot_id)

        agent = self._site.agent(Path(handle.run_dir))
        try:
            await follow_boots(agent, row.guest_boot_id, tell)
        except BangerError as error:
            log.warning("VM %s is not asked for its boots any more: %s", row.name, error)


def _silent(_stage: str) -> None:
    """For changes that nobody follows."""
