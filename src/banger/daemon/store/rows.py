"""What the store keeps, as values. A row is replaced whole, never edited in place."""

from __future__ import annotations

import msgspec

from banger.api.errors import ErrorBody
from banger.api.models import Operation, OperationState, VMSpec, VMState
from banger.host.process import ProcessRef
from banger.hypervisor.base import VMMHandle


class Handles(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every host resource one VM owns, written before the resource is made.

    `vmm` is None while no VMM was started, or while one may have been started whose pid is not
    known yet: then `launching` is true and reconcile looks for it by `run_dir`.
    """

    vm_dir: str
    run_dir: str
    address: str
    mac: str
    ssh_port: int
    launching: bool = False
    vmm: VMMHandle | None = None


class VMRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One VM: what it should be, what it is, and what it holds on this host.

    `host_boot_id` is /proc/sys/kernel/random/boot_id of the boot in which it was last started: a
    handle from another boot means nothing. `guest_boot_id` is the guest kernel's own.
    """

    id: str
    name: str
    state: VMState
    spec: VMSpec
    image_id: str
    kernel_id: str
    handles: Handles
    created_at: float
    updated_at: float
    started_at: float | None = None
    host_boot_id: str | None = None
    guest_boot_id: str | None = None
    reason: str | None = None
    holder: ProcessRef | None = None
    operation: str | None = None


def ended(
    operation: Operation, state: OperationState, now: float, error: ErrorBody | None = None
) -> Operation:
    """`operation` as it is once it has ended at `now`, the stage under way ended with it."""
    return msgspec.structs.replace(
        operation,
        state=state,
        finished_at=now,
        stages=tuple(
            stage
            if stage.finished_at is not None
            else msgspec.structs.replace(stage, finished_at=now)
            for stage in operation.stages
        ),
        error=error,
    )
