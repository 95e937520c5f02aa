"""Changes of one VM take turns: each is an operation that holds the VM's lock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import Operation
from banger.daemon.operations import Operations, Progress
from banger.daemon.store.rows import VMRow
from banger.daemon.vms.machine import Locks, Machine, Site

Change = Callable[[Machine, Progress], Awaitable[None]]


class Turns:
    """Gives each change of a VM its turn, and the VM's row as it is by then."""

    def __init__(self, site: Site, operations: Operations, locks: Locks) -> None:
        self._site = site
        self._operations = operations
        self._locks = locks

    async def change(
        self,
        kind: str,
        row: VMRow,
        change: Change,
        *,
        after: Callable[[str], None] | None = None,
    ) -> Operation:
        """Begin `change` as an operation; when it is done, call `after` with the VM's id."""

        async def body(progress: Progress) -> None:
            async with self.take(row, progress) as machine:
                await change(machine, progress)

            if after is not None:
                after(row.id)

        return await self._operations.start(kind, body, target=row.id, target_name=row.name)

    @asynccontextmanager
    async def take(self, row: VMRow, progress: Progress) -> AsyncIterator[Machine]:
        """Hold the VM's lock. Raises CallerError(unknown_vm) if it is gone by then."""
        lock = self._locks.of(row.id)
        if lock.locked():
            progress.stage("waiting for an earlier operation on this VM")

        async with lock:
            # Read again: what was looked up before the lock was taken may have changed since.
            present = await self._site.store.vm(row.id)
            if present is None:
                raise CallerError(ErrorCode.UNKNOWN_VM, f"VM {row.name} was deleted meanwhile")

            yield Machine(self._site, present)
