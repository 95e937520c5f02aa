"""The composition root: which implementation stands behind each seam, and who gets what."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

from banger import __version__
from banger.api.errors import BangerError
from banger.api.models import DaemonStatus, DoctorReport, VMState
from banger.daemon.doctor.report import Doctor
from banger.daemon.images import Images
from banger.daemon.operations import INTERRUPTED, Operations
from banger.daemon.store import Store
from banger.daemon.vms.faults import hook_from_environment
from banger.daemon.vms.keys import ClientKey
from banger.daemon.vms.machine import Locks, Site
from banger.daemon.vms.reconcile import reconcile
from banger.daemon.vms.service import VMs
from banger.daemon.vms.watch import Watch
from banger.host.boot import host_boot_id
from banger.host.config import Config, resolve_defaults
from banger.host.paths import Paths
from banger.hypervisor.base import Hypervisor
from banger.hypervisor.qemu.driver import Qemu
from banger.network.usermode import UserNetwork
from banger.storage.qcow2 import Qcow2


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the API is served from; `close` lets go of it and leaves the VMs alone."""

    paths: Paths
    store: Store
    operations: Operations
    images: Images
    vms: VMs
    site: Site
    watch: Watch
    checks: Doctor
    started_at: float

    async def doctor(self) -> DoctorReport:
        return await self.checks.run_checks()

    async def status(self) -> DaemonStatus:
        hypervisor, accelerator = await _describe(self.site.hypervisor)
        vms = await self.vms.list()
        return DaemonStatus(
            version=__version__,
            pid=os.getpid(),
            started_at=self.started_at,
            socket=str(self.paths.socket),
            state_dir=str(self.paths.state),
            host_path="embedded",
            hypervisor=hypervisor,
            accelerator=accelerator,
            vms=len(vms),
            running=sum(vm.state is VMState.RUNNING for vm in vms),
            operations=self.operations.running(),
        )

    async def close(self) -> None:
        await self.operations.close()
        await self.watch.close()
        self.site.hypervisor.close()
        await self.store.close()


async def compose(paths: Paths, config: Config) -> Services:
    """Open the store, mend what the last daemon left, and return what serves the API.

    Raises PermanentError(state_corrupt) when the store cannot be used.
    """
    store = await Store.open(paths.database)
    await store.interrupt_operations(INTERRUPTED, time.time())
    operations = Operations(store, log_file=paths.daemon_log)
    images = Images(paths, store, operations)
    site = Site(
        paths=paths,
        config=config,
        store=store,
        images=images,
        client_key=ClientKey(paths),
        hypervisor=Qemu(config.hypervisor.qemu_binary, config.hypervisor.accelerator),
        network=UserNetwork(config.network.subnet),
        root_disks=Qcow2(),
        host_boot_id=host_boot_id(),
        hook=hook_from_environment(),
        reservation=asyncio.Lock(),
    )
    locks = Locks()
    watch = Watch(site, locks)
    vms = VMs(site, operations, locks, watch, resolve_defaults(config))
    await reconcile(site, locks, watch)
    watch.spawn(images.tidy())
    return Services(
        paths=paths,
        store=store,
        operations=operations,
        images=images,
        vms=vms,
        site=site,
        watch=watch,
        checks=Doctor(paths, site.hypervisor, images.list, vms.ids),
        started_at=time.time(),
    )


async def _describe(hypervisor: Hypervisor) -> tuple[str, str]:
    """The VMM with its version, and what it would run a VM on now."""
    try:
        capabilities = await hypervisor.capabilities()
    except BangerError as error:
        return error.message, "none"

    return f"{capabilities.name} {capabilities.version}", capabilities.accelerator
