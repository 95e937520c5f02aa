"""What tests ask of a daemon, done to its end; what failed, or None."""

from __future__ import annotations

from tests.unit.daemon.vms.world import Daemon, failed_with

from banger.api.errors import ErrorCode
from banger.api.models import CreateSnapshot, RestoreSnapshot, VMState


async def do(life: Daemon, verb: str, vm: str = "dev") -> ErrorCode | str | None:
    """Such as `stop`: anything that needs no more than the VM's name."""
    return failed_with(await life.done(await getattr(life.vms, verb)(vm)))


async def keep(life: Daemon, name: str, vm: str = "dev") -> ErrorCode | str | None:
    """Make a snapshot."""
    return failed_with(await life.done(await life.snapshots.create(vm, CreateSnapshot(name=name))))


async def back(life: Daemon, name: str, *, memory: bool = True) -> ErrorCode | str | None:
    """Go back to a snapshot of `dev`."""
    request = RestoreSnapshot(memory=memory)
    return failed_with(await life.done(await life.snapshots.restore("dev", name, request)))


async def state(life: Daemon, vm: str = "dev") -> VMState:
    return (await life.vms.show(vm)).state
