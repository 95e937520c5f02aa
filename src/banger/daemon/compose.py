"""The composition root: which implementation stands behind each seam, and who gets what."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from banger import __version__
from banger.api.errors import BangerError
from banger.api.models import DaemonStatus, DoctorReport, Garbage, Operation, VMState
from banger.daemon.doctor.report import Doctor
from banger.daemon.gc import Collector
from banger.daemon.images import Images
from banger.daemon.log import current_operation
from banger.daemon.operations import INTERRUPTED, Operations
from banger.daemon.paths.base import Seams
from banger.daemon.paths.embedded import open_embedded
from banger.daemon.snapshots.service import Snapshots
from banger.daemon.standby import Standby
from banger.daemon.store import Store
from banger.daemon.templates.background import Lull
from banger.daemon.templates.service import Templates
from banger.daemon.vms.autostart import start_after_boot
from banger.daemon.vms.creation import Creation
from banger.daemon.vms.farewell import Farewell
from banger.daemon.vms.faults import hook_from_environment
from banger.daemon.vms.keys import ClientKey
from banger.daemon.vms.machine import Locks, Site
from banger.daemon.vms.reconcile import reconcile
from banger.daemon.vms.request import Requests
from banger.daemon.vms.service import VMs
from banger.daemon.vms.watch import Watch
from banger.host.boot import host_boot_id
from banger.host.config import Config, resolve_defaults
from banger.host.paths import HostPath, Paths
from banger.hypervisor.base import Hypervisor
from banger.image.builder import Builder, OwnBuilder, ServiceBuilder

if TYPE_CHECKING:
    from banger.daemon.headroom import Headroom


@dataclass(frozen=True, slots=True)
class Services:
    """Everything the API is served from; `close` lets go of it and leaves the VMs alone."""

    paths: Paths
    store: Store
    operations: Operations
    images: Images
    templates: Templates
    standby: Standby
    snapshots: Snapshots
    vms: VMs
    site: Site
    watch: Watch
    collector: Collector
    farewell: Farewell
    headroom: Headroom | None
    checks: Doctor
    seams: Seams
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
            host_path=self.site.host_path.value,
            hypervisor=hypervisor,
            accelerator=accelerator,
            vms=len(vms),
            running=sum(vm.state is VMState.RUNNING for vm in vms),
            operations=self.operations.running(),
        )

    async def stop_guests(self) -> Operation:
        return await self.farewell.begin()

    async def gc(self) -> Garbage:
        return await self.collector.collect()

    async def close(self) -> None:
        if self.headroom is not None:
            await self.headroom.close()

        await self.operations.close()
        await self.standby.close()
        await self.watch.close()
        await self.collector.close()
        await self.site.host_keys.close()
        self.site.hypervisor.close()
        await self.seams.close()
        await self.store.close()


async def compose(
    paths: Paths, config: Config, host_path: HostPath = HostPath.EMBEDDED
) -> Services:
    """Open the store, mend what the last daemon left, and return what serves the API.

    Raises PermanentError(state_corrupt) when the store cannot be used.
    """
    store = await Store.open(paths.database)
    await store.interrupt_operations(INTERRUPTED, time.time())
    operations = Operations(store, log_file=paths.daemon_log)
    builder = _builder(host_path, paths)
    images = Images(paths, store, operations, builder)
    seams = await _open(host_path, paths, config, store)
    site = Site(
        host_path=host_path,
        paths=paths,
        config=config,
        store=store,
        images=images,
        client_key=ClientKey(paths),
        hypervisor=seams.hypervisor,
        agent=seams.agent,
        network=seams.network,
        disks=seams.disks,
        moments=seams.moments,
        run_steps=seams.run_steps,
        seed_steps=seams.seed_steps,
        name_steps=seams.name_steps,
        host_boot_id=host_boot_id(),
        hook=hook_from_environment(),
        reservation=asyncio.Lock(),
    )
    locks = Locks()
    watch = Watch(site, locks)
    defaults = resolve_defaults(config)
    collector = Collector(site)
    sweep, spawn = collector.collect, watch.spawn
    lull = Lull(site, operations)
    templates = Templates(site, operations, defaults, sweep=sweep, spawn=spawn, lull=lull)
    creation = Creation(site, locks, watch)
    standby = Standby(site, locks, watch, creation, templates, lull)
    templates.follow(standby.template_gone)
    requests = Requests(site, creation, templates, standby, defaults)
    vms = VMs(site, operations, locks, watch, requests)
    snapshots = Snapshots(site, operations, locks, watch, collector)
    await snapshots.reconcile()
    await reconcile(site, locks, watch)
    await templates.reconcile()
    await collector.collect(idle=True)
    collector.begin()
    images.follow(templates)
    watch.spawn(_tidy(images, templates))
    watch.spawn(start_after_boot(site, vms, operations))
    return Services(
        paths=paths,
        store=store,
        operations=operations,
        images=images,
        templates=templates,
        standby=standby,
        snapshots=snapshots,
        vms=vms,
        site=site,
        watch=watch,
        collector=collector,
        farewell=Farewell(site, operations, locks),
        headroom=_headroom(site, locks, watch),
        checks=_doctor(site, vms),
        seams=seams,
        started_at=time.time(),
    )


async def _open(host_path: HostPath, paths: Paths, config: Config, store: Store) -> Seams:
    if host_path is HostPath.EMBEDDED:
        return open_embedded(config)

    # Half of the daemon's memory is code, and an embedded daemon needs none of this.
    from banger.daemon.paths.system import open_system

    return await open_system(paths, config, store)


def _builder(host_path: HostPath, paths: Paths) -> Builder:
    if host_path is HostPath.EMBEDDED:
        return OwnBuilder(paths)

    from banger.install.layout import BUILD_SOCKET

    return ServiceBuilder(paths, BUILD_SOCKET)


def _headroom(site: Site, locks: Locks, watch: Watch) -> Headroom | None:
    """QEMU stops a guest by itself when it cannot store what that writes."""
    if site.host_path is HostPath.EMBEDDED:
        return None

    from banger.daemon.headroom import Headroom

    headroom = Headroom(site, locks, watch)
    headroom.begin()
    return headroom


def _doctor(site: Site, vms: VMs) -> Doctor:
    paths, images = site.paths, site.images.list
    if site.host_path is HostPath.EMBEDDED:
        return Doctor(paths, site.hypervisor, images, vms.ids)

    from banger.daemon.doctor.system import system_checks
    from banger.daemon.paths.opening import BRIDGE
    from banger.install.layout import BUILD_SOCKET
    from banger.privileged.client import RootClient
    from banger.privileged.helper import SOCKET

    async def running() -> dict[str, str]:
        found = await vms.list()
        return {
            vm.name: vm.address
            for vm in found
            if vm.state is VMState.RUNNING and vm.address is not None
        }

    ops = RootClient(Path(SOCKET), current_operation.get)
    building = ServiceBuilder(paths, BUILD_SOCKET).probe
    checks = partial(system_checks, paths.config_file, ops, BRIDGE, running, building, vms.ids)
    return Doctor(paths, site.hypervisor, images, vms.ids, checks)


async def _tidy(images: Images, templates: Templates) -> None:
    # In this order: templates hold on to images.
    await templates.tidy()
    await images.tidy()


async def _describe(hypervisor: Hypervisor) -> tuple[str, str]:
    """The VMM with its version, and what it would run a VM on now."""
    try:
        capabilities = await hypervisor.capabilities()
    except BangerError as error:
        return error.message, "none"

    return f"{capabilities.name} {capabilities.version}", capabilities.accelerator
