"""What root made for VMs that are gone: found by banger's mark, compared with the store, removed.

Taps are not looked at here: the pool adopts or removes them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from banger.api.errors import BangerError
from banger.privileged.base import PrivilegedOps
from banger.privileged.ops import (
    FindProcess,
    Owned,
    RemoveJail,
    RemoveSnapshot,
    Signal,
    SignalProcess,
)
from banger.storage.cow import DEVICE_PREFIX

log = logging.getLogger(__name__)


async def remove_leftovers(ops: PrivilegedOps, owned: Owned, vm_ids: Collection[str]) -> None:
    """End and remove what is of no VM in `vm_ids`, and the jails in which nothing runs.

    What cannot be removed is logged, and looked at again at the next start.
    """
    for jail in owned.jails:
        try:
            await _remove_jail(ops, jail, wanted=_vm_of(jail) in vm_ids)
        except BangerError as error:
            log.warning("the jail %s stays for now: %s", jail, error)

    for name in _devices(owned, vm_ids):
        try:
            await ops.call(RemoveSnapshot(name=name))
        except BangerError as error:
            log.warning("the device %s stays for now: %s", name, error)


def of_no_vm(owned: Owned, vm_ids: Collection[str]) -> list[str]:
    """What root made, is listed in `owned`, and belongs to no VM of `vm_ids`, in words."""
    jails = (f"jail {jail}" for jail in owned.jails if _vm_of(jail) not in vm_ids)
    return [*jails, *(f"device {name}" for name in _devices(owned, vm_ids))]


def _devices(owned: Owned, vm_ids: Collection[str]) -> list[str]:
    return [name for name in owned.snapshots if name.removeprefix(DEVICE_PREFIX) not in vm_ids]


def _vm_of(jail: str) -> str:
    return jail.partition("-")[0]


async def _remove_jail(ops: PrivilegedOps, jail: str, *, wanted: bool) -> None:
    process = (await ops.call(FindProcess(jail=jail))).process
    if process is not None:
        if wanted:
            # Reconciliation knows it, or finds it.
            return

        log.info("ending the VMM of jail %s, which belongs to no VM", jail)
        await ops.call(SignalProcess(jail=jail, process=process, signal=Signal.KILL))

    await ops.call(RemoveJail(jail=jail))
