"""VMs that are to run whenever the host does: started once after each of its boots."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from banger.api.errors import BangerError
from banger.api.models import Operation, OperationState
from banger.daemon.operations import Operations
from banger.daemon.vms.machine import Site
from banger.host.files import write_atomic

log = logging.getLogger(__name__)


class Starter(Protocol):
    """Starts VMs; one that runs is left alone."""

    async def start(self, ref: str) -> Operation: ...


async def start_after_boot(site: Site, vms: Starter, operations: Operations) -> None:
    """Start what is to be started, one after the other, unless that was done in this boot.

    A user who stops such a VM has it stopped until the next boot.
    """
    marker = site.paths.autostarted
    if _text(marker) == site.host_boot_id:
        return

    for row in await site.store.vms():
        if row.spec.autostart:
            await _start(vms, operations, row.id, row.name)

    write_atomic(marker, site.host_boot_id.encode(), durable=False)


async def _start(vms: Starter, operations: Operations, vm_id: str, name: str) -> None:
    try:
        operation = await operations.wait((await vms.start(vm_id)).id)
    except BangerError as error:
        log.warning("VM %s is not started: %s", name, error)
        return

    if operation.state is not OperationState.SUCCEEDED:
        log.warning("VM %s is not started: %s", name, operation.error)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
