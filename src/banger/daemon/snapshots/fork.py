"""Forks: new VMs that go on from one moment of another, all of them or none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import ForkVM
from banger.api.names import check_name
from banger.daemon.operations import Progress
from banger.daemon.snapshots.checkpoint import origin_of
from banger.daemon.store import Store
from banger.daemon.store.rows import SnapshotRow, VMRow
from banger.daemon.vms import lifecycle
from banger.daemon.vms.creation import Creation, NewVM
from banger.daemon.vms.machine import Locks, Machine, Site
from banger.daemon.vms.watch import Watch
from banger.host.process import ProcessRef

_NUMBER = "{n}"

# A VM's name has 63 characters at most; so many are left for "-256".
_STEM = 58

# More at once take longer: they are at work all the time, and in each other's way.
_AT_ONCE = os.cpu_count() or 1


async def child_names(store: Store, parent: VMRow, request: ForkVM) -> tuple[str, ...]:
    """What the children are called. Raises CallerError(invalid_name, name_taken)."""
    taken = {row.name for row in await store.vms()}
    if request.name is None:
        return _free_names(parent.name[:_STEM].rstrip("-"), request.count, taken)

    if request.count > 1 and _NUMBER not in request.name:
        raise CallerError(
            ErrorCode.INVALID_NAME,
            f"{request.count} VMs cannot all be called {request.name!r}",
            hint=f"write {_NUMBER} where the number of each belongs: '{request.name}-{_NUMBER}'",
        )

    numbers = range(1, request.count + 1)
    names = tuple(check_name(request.name.replace(_NUMBER, str(number))) for number in numbers)
    for name in names:
        if name in taken:
            raise CallerError(
                ErrorCode.NAME_TAKEN,
                f"there is already a VM named {name!r}",
                hint=f"choose another pattern, or remove it: banger vm delete {name}",
            )

    return names


def _free_names(stem: str, count: int, taken: set[str]) -> tuple[str, ...]:
    names: list[str] = []
    number = 0
    while len(names) < count:
        number += 1
        if f"{stem}-{number}" not in taken:
            names.append(f"{stem}-{number}")

    return tuple(names)


@dataclass(frozen=True, slots=True)
class Children:
    """Makes VMs of a snapshot."""

    site: Site
    locks: Locks
    watch: Watch
    creation: Creation

    async def make(
        self,
        snapshot: SnapshotRow,
        names: Sequence[str],
        progress: Progress,
        holder: ProcessRef | None = None,
    ) -> None:
        """Make VMs called `names` of `snapshot`, running if it has memory; all, or none."""
        made: list[VMRow] = []
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> None:
            async with slots:
                new = self._child(snapshot, name, holder)
                made.append(await self.creation.make(new, progress.part()))
                progress.detail(f"{len(made)} of {len(names)}")

        progress.stage("children", f"0 of {len(names)}")
        try:
            await _all([one(name) for name in names])
        except BaseException:
            await asyncio.shield(self.take_back(made))
            raise

        progress.set_made(tuple(names))

    async def take_back(self, rows: Sequence[VMRow]) -> None:
        """Remove VMs that were made, as they are part of a fork that is not."""
        for row in rows:
            async with self.locks.of(row.id):
                present = await self.site.store.vm(row.id)
                if present is not None:
                    await lifecycle.discard(Machine(self.site, present))

            self.watch.forget(row.id)

    def _child(self, snapshot: SnapshotRow, name: str, holder: ProcessRef | None) -> NewVM:
        return NewVM(
            name=name,
            # The ports its parent publishes on the host are taken: by its parent.
            spec=msgspec.structs.replace(snapshot.spec, ports=()),
            image_id=snapshot.image_id,
            kernel_id=snapshot.kernel_id,
            holder=holder,
            start=snapshot.memory is not None,
            origin=origin_of(self.site, snapshot),
            parent=snapshot.vm_id,
        )


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at once; when something fails, cancel the others and raise that."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()

        await asyncio.wait(tasks)
        raise
