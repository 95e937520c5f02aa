"""The snapshot commands: each checks its request, then runs as an operation of its VM."""

from __future__ import annotations

import asyncio
import builtins
import logging
import secrets
import time
from contextlib import AsyncExitStack

import msgspec

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import (
    CreateSnapshot,
    ForkVM,
    Operation,
    RestoreSnapshot,
    Snapshot,
    VMState,
)
from banger.api.names import make_name
from banger.daemon.gc import Collector
from banger.daemon.operations import Body, Operations, Progress
from banger.daemon.snapshots import checkpoint
from banger.daemon.snapshots.checkpoint import (
    KEEP_STEPS,
    LASTING_STEPS,
    LIVE_STEPS,
    MEMORY_STEPS,
    STILL_STEPS,
    Checkpoint,
)
from banger.daemon.snapshots.fork import Children, child_names
from banger.daemon.snapshots.going_back import go_back
from banger.daemon.snapshots.view import Exclusive, snapshot_of
from banger.daemon.store.rows import SnapshotRow, VMRow
from banger.daemon.vms.admission import admit
from banger.daemon.vms.creation import Creation
from banger.daemon.vms.holder import holder_of
from banger.daemon.vms.machine import Locks, Machine, Site
from banger.daemon.vms.pausing import not_running
from banger.daemon.vms.turns import Turns
from banger.daemon.vms.vmm import require_vmm
from banger.daemon.vms.watch import Watch
from banger.host.process import ProcessRef

log = logging.getLogger(__name__)


class Snapshots:
    """Implements the snapshot part of the API, and forks."""

    def __init__(
        self,
        site: Site,
        operations: Operations,
        locks: Locks,
        watch: Watch,
        collector: Collector,
    ) -> None:
        self._site = site
        self._operations = operations
        self._watch = watch
        self._collector = collector
        self._turns = Turns(site, operations, locks)
        self._children = Children(site, locks, watch, Creation(site, locks, watch))

    async def reconcile(self) -> None:
        """Take back what an earlier daemon had not finished: snapshots, and forks as a whole."""
        vms = await self._site.store.vms()
        for row in await self._site.store.snapshots():
            if row.ready and row.name is not None:
                continue

            log.info("snapshot %s of VM %s is unfinished: removing", row.id, row.vm_id)
            await self._children.take_back([vm for vm in vms if _is_child(vm, row)])
            await checkpoint.discard(self._site, row)

    async def list(self, vm: str) -> list[Snapshot]:
        row = await self._site.store.find_vm(vm)
        sizes = await Exclusive.of(self._site)
        return [snapshot_of(found, row, sizes) for found in await self._named(row)]

    async def show(self, vm: str, snapshot: str) -> Snapshot:
        row = await self._site.store.find_vm(vm)
        found = await self._find(row, snapshot)
        return snapshot_of(found, row, await Exclusive.of(self._site))

    async def create(self, vm: str, request: CreateSnapshot) -> Operation:
        row = await self._site.store.find_vm(vm)
        taken = {found.name for found in await self._site.store.snapshots(row.id)}
        name = request.name or next(name for name in iter(make_name, "") if name not in taken)
        if name in taken:
            raise CallerError(
                ErrorCode.NAME_TAKEN,
                f"VM {row.name} has a snapshot named {name!r} already",
                hint=f"choose another name, or: banger vm snapshot delete {row.name} {name}",
            )

        async def body(progress: Progress) -> None:
            async with AsyncExitStack() as stack:
                made = await self._checkpoint(stack, row, "snapshot", progress, name=name)
                steps = KEEP_STEPS if made.row.memory is None else (*MEMORY_STEPS, *KEEP_STEPS)
                await checkpoint.go(made, steps, "snapshot", progress)

        return await self._begin("snapshot.create", row, body)

    async def restore(self, vm: str, snapshot: str, request: RestoreSnapshot) -> Operation:
        row = await self._site.store.find_vm(vm)
        await self._find(row, snapshot)

        async def change(machine: Machine, progress: Progress) -> None:
            found = await self._find(machine.row, snapshot)
            try:
                await go_back(machine, found, progress, memory=request.memory)
            finally:
                self._watch.running(machine.row)

            self._site.litter.set()

        return await self._turns.change("snapshot.restore", row, change)

    async def delete(self, vm: str, snapshot: str) -> Operation:
        row = await self._site.store.find_vm(vm)
        await self._find(row, snapshot)

        async def change(machine: Machine, progress: Progress) -> None:
            progress.stage("delete")
            await checkpoint.discard(self._site, await self._find(machine.row, snapshot))
            await self._collector.collect()

        return await self._turns.change("snapshot.delete", row, change)

    async def fork(self, vm: str, request: ForkVM) -> Operation:
        row = await self._site.store.find_vm(vm)
        holder = holder_of(request.holder_pid)
        names = await child_names(self._site.store, row, request)
        source = await self._source(row, request.snapshot)
        runs = row.state is VMState.RUNNING if source is None else source.memory is not None
        if runs:
            await admit(self._site, (source or row).spec.memory, count=len(names))

        async def body(progress: Progress) -> None:
            if request.snapshot is None:
                await self._fork(row, names, holder, progress)
            else:
                await self._fork_snapshot(row, request.snapshot, names, holder, progress)

        return await self._begin("vm.fork", row, body)

    async def _source(self, row: VMRow, snapshot: str | None) -> SnapshotRow | None:
        """The snapshot a fork is of; None for one of the VM itself, which can be forked then."""
        if snapshot is not None:
            return await self._find(row, snapshot)

        if row.state in (VMState.PAUSED, VMState.SUSPENDED):
            raise not_running(row)

        return None

    async def _fork(
        self, row: VMRow, names: tuple[str, ...], holder: ProcessRef | None, progress: Progress
    ) -> None:
        async with AsyncExitStack() as stack:
            made = await self._checkpoint(stack, row, "fork", progress, children=names)
            try:
                if made.row.memory is not None:
                    await checkpoint.go(made, MEMORY_STEPS, "fork", progress)

                await self._children.make(made.row, names, progress, holder)
            finally:
                # Its children have gone on: their layers are theirs, its memory is mapped.
                await asyncio.shield(checkpoint.discard(self._site, made.row))

    async def _fork_snapshot(
        self,
        row: VMRow,
        snapshot: str,
        names: tuple[str, ...],
        holder: ProcessRef | None,
        progress: Progress,
    ) -> None:
        # With the VM's lock, so that the snapshot stays.
        async with self._turns.take(row, progress) as machine:
            found = await self._find(machine.row, snapshot)
            if found.memory is not None:
                hint = f"use another snapshot: banger vm snapshot list {row.name}"
                await require_vmm(self._site, found.vmm, f"snapshot {found.name}", hint)

            # Tells the next daemon, if this one dies meanwhile, which VMs belong together.
            fork = msgspec.structs.replace(
                found,
                id=secrets.token_hex(6),
                name=None,
                ready=False,
                children=names,
                created_at=time.time(),
            )
            await self._site.store.insert_snapshot(fork)
            try:
                await self._children.make(found, names, progress, holder)
            finally:
                await asyncio.shield(self._site.store.delete_snapshot(fork.id))

    async def _checkpoint(
        self,
        stack: AsyncExitStack,
        row: VMRow,
        label: str,
        progress: Progress,
        *,
        name: str | None = None,
        children: tuple[str, ...] = (),
    ) -> Checkpoint:
        """Make one of the VM as it is now; until `stack` is left the VM is not deleted."""
        async with self._turns.take(row, progress) as machine:
            await stack.enter_async_context(self._site.lingering.of(row.id))
            runs = machine.row.state is VMState.RUNNING
            made = await checkpoint.begin(machine, progress.id, name=name, children=children)
            live = LIVE_STEPS if name is None else LASTING_STEPS
            await checkpoint.go(made, live if runs else STILL_STEPS, label, progress)

        if runs:
            still = f"{row.name} stood still for {made.still * 1000:.0f} ms"
            log.info("%s", still)
            progress.detail(still)

        return made

    async def _begin(self, kind: str, row: VMRow, body: Body) -> Operation:
        return await self._operations.start(kind, body, target=row.id, target_name=row.name)

    async def _named(self, row: VMRow) -> builtins.list[SnapshotRow]:
        found = await self._site.store.snapshots(row.id)
        return [snapshot for snapshot in found if snapshot.ready and snapshot.name is not None]

    async def _find(self, row: VMRow, ref: str) -> SnapshotRow:
        named = await self._named(row)
        by_ref = {found.id: found for found in named} | {found.name: found for found in named}
        if ref not in by_ref:
            raise CallerError(
                ErrorCode.UNKNOWN_SNAPSHOT,
                f"VM {row.name} has no snapshot {ref!r}",
                hint=f"see what there is: banger vm snapshot list {row.name}",
            )

        return by_ref[ref]


def _is_child(vm: VMRow, row: SnapshotRow) -> bool:
    """Whether `vm` was made of the unfinished fork `row`."""
    return vm.parent == row.vm_id and vm.name in row.children and vm.created_at >= row.created_at
