"""The host is about to end: all guests end before it, and no other begins."""

from __future__ import annotations

import asyncio
import logging

from banger.api.errors import BangerError
from banger.api.models import Operation, VMState
from banger.daemon.operations import Operations, Progress
from banger.daemon.store.rows import VMRow
from banger.daemon.vms import lifecycle
from banger.daemon.vms.machine import Locks, Machine, Site

log = logging.getLogger(__name__)

HOST_ENDED = "the host shut down"

# What ends VMs anyway; everything else is interrupted, for it would only be cut off later.
_LEFT_ALONE = frozenset(("vm.stop", "vm.delete", "vm.kill", "vm.suspend", "guests.stop"))
_AT_REST = (VMState.STOPPED, VMState.SUSPENDED)


class Farewell:
    """Stops every VM at once, as `banger vm stop` does each."""

    def __init__(self, site: Site, operations: Operations, locks: Locks) -> None:
        self._site = site
        self._operations = operations
        self._locks = locks

    async def begin(self) -> Operation:
        """Stop all VMs as an operation; until that has ended, none starts."""
        return await self._operations.start(
            "guests.stop", self._stop_all, target=None, target_name=None
        )

    async def _stop_all(self, progress: Progress) -> None:
        self._site.ending.set()
        try:
            progress.stage("interrupt")
            await self._operations.interrupt(_LEFT_ALONE)
            rows = [row for row in await self._site.store.vms() if row.state not in _AT_REST]
            progress.stage("guest poweroff", f"{len(rows)} VMs")
            await asyncio.gather(*(self._stop(row) for row in rows))
        finally:
            self._site.ending.clear()

    async def _stop(self, row: VMRow) -> None:
        async with self._locks.of(row.id):
            present = await self._site.store.vm(row.id)
            if present is None or present.state in _AT_REST:
                return

            machine = Machine(self._site, present)
            try:
                await lifecycle.stop(machine, _log_stage, reason=HOST_ENDED)
            except BangerError as error:
                # One that cannot be cleaned up must not keep the others from ending.
                log.warning("VM %s: %s", row.name, error)


def _log_stage(stage: str) -> None:
    log.debug("ending a guest: %s", stage)
