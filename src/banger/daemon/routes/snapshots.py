"""`/v1/vms/{vm}/snapshots` and `/v1/vms/{vm}/fork`: a VM's moments, and what goes on from them."""

from __future__ import annotations

from http import HTTPMethod

from banger.api.errors import ErrorCode
from banger.api.models import CreateSnapshot, ForkVM, RestoreSnapshot, Snapshot
from banger.daemon.routes.endpoint import Call, Endpoint, acts, obeys, reads
from banger.daemon.services import SnapshotService

_VM = (ErrorCode.UNKNOWN_VM, ErrorCode.AMBIGUOUS_VM)
_REF = (*_VM, ErrorCode.UNKNOWN_SNAPSHOT)
_ROOM = (ErrorCode.INSUFFICIENT_MEMORY, ErrorCode.INSUFFICIENT_DISK)


def snapshot_endpoints(snapshots: SnapshotService) -> tuple[Endpoint, ...]:
    """The rows that `snapshots` serves."""
    return (
        reads(
            "/v1/vms/{vm}/snapshots",
            "List a VM's snapshots, oldest first",
            list[Snapshot],
            lambda call: snapshots.list(_vm(call)),
            _VM,
        ),
        obeys(
            HTTPMethod.POST,
            "/v1/vms/{vm}/snapshots",
            "Keep a VM as it is now: its disks, and its memory if it runs",
            CreateSnapshot,
            lambda call, body: snapshots.create(_vm(call), body),
            (*_VM, *_ROOM, ErrorCode.INVALID_NAME, ErrorCode.NAME_TAKEN, ErrorCode.VM_BUSY),
        ),
        reads(
            "/v1/vms/{vm}/snapshots/{snapshot}",
            "Show a snapshot",
            Snapshot,
            lambda call: snapshots.show(_vm(call), _snapshot(call)),
            _REF,
        ),
        acts(
            HTTPMethod.DELETE,
            "/v1/vms/{vm}/snapshots/{snapshot}",
            "Delete a snapshot; its VM, and VMs made of it, stay as they are",
            lambda call: snapshots.delete(_vm(call), _snapshot(call)),
            _REF,
        ),
        obeys(
            HTTPMethod.POST,
            "/v1/vms/{vm}/snapshots/{snapshot}/restore",
            "Make a VM again what it was; what it is now is lost",
            RestoreSnapshot,
            lambda call, body: snapshots.restore(_vm(call), _snapshot(call), body),
            (*_REF, *_ROOM, ErrorCode.VM_BUSY),
        ),
        obeys(
            HTTPMethod.POST,
            "/v1/vms/{vm}/fork",
            "Make VMs that go on from where this one is",
            ForkVM,
            lambda call, body: snapshots.fork(_vm(call), body),
            (*_REF, *_ROOM, ErrorCode.INVALID_NAME, ErrorCode.NAME_TAKEN, ErrorCode.VM_BUSY),
        ),
    )


def _vm(call: Call) -> str:
    return call.path["vm"]


def _snapshot(call: Call) -> str:
    return call.path["snapshot"]
