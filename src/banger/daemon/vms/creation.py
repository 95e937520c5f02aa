"""Making a VM: reserve, make, start; or leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import BangerError, CallerError, ErrorCode
from banger.api.models import VMSpec, VMState
from banger.api.names import make_name
from banger.daemon.operations import Progress
from banger.daemon.store.rows import DiskFile, Handles, Layers, VMRow
from banger.daemon.vms import leases, lifecycle
from banger.daemon.vms.machine import Locks, Machine, Origin, Site
from banger.daemon.vms.watch import Watch
from banger.host.files import sync
from banger.host.process import ProcessRef
from banger.host.threads import in_thread
from banger.storage.base import DiskFormat
from banger.storage.layers import layer_path

# A crash of the host sooner than this after a VM was made takes it along.
DURABLE_SECONDS = 2.0

# Console logs of VMs that never came up: the newest so many are kept.
KEPT_CONSOLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVM:
    """A VM that is to be made, everything decided.

    `holder` is the process it lives as long as. What it begins as is its image, or `origin`.
    """

    name: str | None
    spec: VMSpec
    image_id: str
    kernel_id: str
    holder: ProcessRef | None = None
    start: bool = True
    origin: Origin | None = None
    template: str | None = None
    parent: str | None = None
    standby: bool = False


class Creation:
    """Makes VMs that are decided upon: those asked for, and the children of a fork."""

    def __init__(self, site: Site, locks: Locks, watch: Watch) -> None:
        self._site = site
        self._locks = locks
        self._watch = watch

    async def make(self, new: NewVM, progress: Progress) -> VMRow:
        """Make `new` and return its row; on failure nothing of it is left."""
        row = await self._reserve(new, progress.id)
        progress.set_target(row.id, row.name)
        async with self._locks.of(row.id):
            machine = Machine(self._site, row, new.origin)
            try:
                await self._provision(machine, new.start, progress)
            except BaseException:
                await asyncio.shield(self._give_up(machine))
                raise

        self.made(machine)
        return machine.row

    def made(self, machine: Machine) -> None:
        """Look after a VM that was just made."""
        self._watch.held(machine.row)
        self._watch.later(DURABLE_SECONDS, lambda: _make_durable(machine))

    async def _provision(self, machine: Machine, start: bool, progress: Progress) -> None:
        await lifecycle.provision(machine, progress.stage)
        if not start:
            await machine.record(operation=None)
            return

        try:
            await lifecycle.start(machine, progress.stage, progress.id)
        except BangerError as error:
            error.hint = keep_console(machine) or error.hint
            raise

        self._watch.running(machine.row)

    async def _give_up(self, machine: Machine) -> None:
        await lifecycle.discard(machine)
        self._watch.forget(machine.row.id)

    async def _reserve(self, new: NewVM, operation: str) -> VMRow:
        now = time.time()
        while True:
            vm_id = secrets.token_hex(6)
            row = VMRow(
                id=vm_id,
                name=new.name or make_name(),
                state=VMState.CREATING,
                spec=new.spec,
                image_id=new.image_id,
                kernel_id=new.kernel_id,
                handles=self._handles(vm_id, cloned=new.origin is not None),
                created_at=now,
                updated_at=now,
                holder=new.holder,
                operation=operation,
                template=new.template,
                parent=new.parent,
                standby=new.standby,
            )
            try:
                return await leases.insert(self._site, row)
            except asyncio.CancelledError:
                # It may have got there all the same.
                await asyncio.shield(self._site.store.delete_vm(vm_id))
                raise
            except CallerError as error:
                if new.name is not None or error.code is not ErrorCode.NAME_TAKEN:
                    raise

    def _handles(self, vm_id: str, *, cloned: bool) -> Handles:
        paths = self._site.paths
        return Handles(
            vm_dir=str(paths.vms / vm_id),
            run_dir=str(paths.vm_run / vm_id),
            address="",
            mac="",
            ssh_port=0,
            disks=self._clones() if cloned else self._begun(),
        )

    def _clones(self) -> Layers:
        return self._site.moments.fresh(self._site.paths.disks)

    def _begun(self) -> Layers:
        return Layers(root=self._layer(self._site.disks.format), work=self._layer("raw"))

    def _layer(self, form: DiskFormat) -> DiskFile:
        path = layer_path(self._site.paths.disks, form)
        return DiskFile(path=str(path), format=form)


async def _make_durable(machine: Machine) -> None:
    """Write to the disk what a VM that was made a moment ago consists of, if it still exists."""
    row = await machine.site.store.vm(machine.row.id)
    if row is None:
        return

    with contextlib.suppress(FileNotFoundError):
        for path in (machine.host_key, machine.host_key_public, machine.known_hosts):
            await in_thread(sync, path)

        for disk in (row.handles.disks.root, row.handles.disks.work):
            await in_thread(sync, Path(disk.path))

        await in_thread(sync, machine.vm_dir)
        await in_thread(sync, machine.site.paths.disks)

    await machine.site.store.make_durable()


def keep_console(machine: Machine) -> str | None:
    """Copy the console log of a VM that is about to be taken back; return a hint that names it."""
    if not machine.console_log.exists():
        return None

    kept = machine.site.paths.failed_consoles / f"{machine.row.name}-{machine.row.id}.log"
    with contextlib.suppress(OSError):
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(machine.console_log, kept)
        for old in sorted(kept.parent.iterdir(), key=lambda log: log.stat().st_mtime)[
            :-KEPT_CONSOLES
        ]:
            old.unlink()

        return f"the VM was removed; its console log is kept: {kept}"

    return None
