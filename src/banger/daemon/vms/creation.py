"""Creating a VM: resolve, check, reserve, make, start; or leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time

from banger.api.errors import BangerError, CallerError, ErrorCode
from banger.api.models import CreateVM, VMSpec, VMState
from banger.api.names import make_name
from banger.daemon.operations import Progress
from banger.daemon.store.rows import Handles, VMRow
from banger.daemon.vms import leases, lifecycle
from banger.daemon.vms.admission import admit
from banger.daemon.vms.machine import Locks, Machine, Site
from banger.daemon.vms.plan import resolve_spec
from banger.daemon.vms.watch import Watch
from banger.host.config import Defaults
from banger.host.process import ProcessRef
from banger.host.resources import check_disk
from banger.network.usermode import mac_address

# Room that creating a VM needs on the state directory's file system before its disks grow.
CREATE_ROOM = 64 * 1024 * 1024

# Console logs of VMs that never came up: the newest so many are kept.
KEPT_CONSOLES = 10


class Creation:
    """Carries out `vm.create`."""

    def __init__(self, site: Site, locks: Locks, watch: Watch, defaults: Defaults) -> None:
        self._site = site
        self._locks = locks
        self._watch = watch
        self._defaults = defaults

    async def run(self, request: CreateVM, holder: ProcessRef | None, progress: Progress) -> None:
        """Create, and start if asked to; what fails leaves nothing but a kept console log."""
        progress.stage("resolve")
        image = await self._site.images.resolve(request.image or self._defaults.image, progress)
        spec = resolve_spec(request, self._defaults, image)
        if request.start:
            # Without a hypervisor there is no use in making disks first.
            await self._site.hypervisor.capabilities()

        await admit(self._site, spec.memory)
        check_disk(self._site.paths.state, CREATE_ROOM)
        for port in spec.ports:
            leases.require_free(port)

        row = await self._reserve(request.name, spec, image.id, image.kernel, holder, progress.id)
        progress.set_target(row.id, row.name)
        async with self._locks.of(row.id):
            machine = Machine(self._site, row)
            try:
                await self._provision(machine, request.start, progress)
            except BaseException:
                await asyncio.shield(self._give_up(machine))
                raise

        self._watch.held(machine.row)

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

    async def _reserve(
        self,
        name: str | None,
        spec: VMSpec,
        image_id: str,
        kernel_id: str,
        holder: ProcessRef | None,
        operation: str,
    ) -> VMRow:
        now = time.time()
        while True:
            vm_id = secrets.token_hex(6)
            row = VMRow(
                id=vm_id,
                name=name or make_name(),
                state=VMState.CREATING,
                spec=spec,
                image_id=image_id,
                kernel_id=kernel_id,
                handles=self._handles(vm_id),
                created_at=now,
                updated_at=now,
                holder=holder,
                operation=operation,
            )
            try:
                return await leases.insert(self._site, row)
            except CallerError as error:
                if name is not None or error.code is not ErrorCode.NAME_TAKEN:
                    raise

    def _handles(self, vm_id: str) -> Handles:
        paths = self._site.paths
        return Handles(
            vm_dir=str(paths.vms / vm_id),
            run_dir=str(paths.vm_run / vm_id),
            address="",
            mac=mac_address(vm_id),
            ssh_port=0,
        )


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
