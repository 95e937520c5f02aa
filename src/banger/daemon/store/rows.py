"""What the store keeps, as values. A row is replaced whole, never edited in place."""

from __future__ import annotations

import msgspec

from banger.api.errors import ErrorBody
from banger.api.models import Operation, OperationState, VMSpec, VMState
from banger.host.process import ProcessRef
from banger.hypervisor.base import VMMHandle
from banger.storage.base import DiskFormat


class DiskFile(msgspec.Struct, frozen=True, kw_only=True):
    """A disk layer: the file that is written, or one below it that never changes."""

    path: str
    format: DiskFormat


class Layers(msgspec.Struct, frozen=True, kw_only=True):
    """The two disks of a VM, each by its top layer. What lies below is in the files' headers."""

    root: DiskFile
    work: DiskFile


class Handles(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every host resource one VM owns, written before the resource is made.

    `vmm` is None while no VMM was started, or while one may have been started whose pid is not
    known yet: then `launching` is true and reconcile looks for it by `run_dir`.

    `next` are the layers a running VM is about to go over to. Once they exist they are its disks,
    whether it got as far or not: they began as empty overlays of what it has. While a VM is not
    running they are an attempt, and nothing is lost with them. `memory` is the directory with what
    the VM's memory was when it was suspended, `memory_vmm` what has to match for it to be of use.

    On a host with a bridge `subnet` is the network that `address` is of, `tap` the port a running
    VM is behind, and `ssh_port` 0: its sshd is reached where it is.
    """

    vm_dir: str
    run_dir: str
    address: str
    mac: str
    ssh_port: int
    disks: Layers
    next: Layers | None = None
    memory: str | None = None
    memory_vmm: str = ""
    launching: bool = False
    vmm: VMMHandle | None = None
    subnet: str = ""
    tap: str = ""


class VMRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One VM: what it should be, what it is, and what it holds on this host.

    `host_boot_id` is /proc/sys/kernel/random/boot_id of the boot in which it was last started: a
    handle from another boot means nothing. `guest_boot_id` is the guest kernel's own. `template`
    and `parent` tell where the VM came from, not what it needs: they may be gone. With `standby` it
    was made ahead, and is nobody's yet. It is `unclean` from its start until its guest has powered
    off: if it ends without, its disks may be worth a look.
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
    template: str | None = None
    parent: str | None = None
    standby: bool = False
    unclean: bool = False


class SnapshotRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A snapshot of a VM, written before anything of it is made; `ready` once all of it is.

    `disks` are immutable layers. `memory` is the directory of the guest's memory; None when it did
    not run. `vmm` is what has to match for that memory to be of use, `aligned` are the streams into
    it on which no frame was cut short. One without a name is what a fork goes on from: it is
    removed when its `children`, VMs by their names, run.
    """

    id: str
    vm_id: str
    name: str | None
    spec: VMSpec
    image_id: str
    kernel_id: str
    disks: Layers
    created_at: float
    memory: str | None = None
    vmm: str = ""
    aligned: tuple[int, ...] = ()
    ready: bool = False
    children: tuple[str, ...] = ()


class FileMark(msgspec.Struct, frozen=True, kw_only=True):
    """What stat(2) says of a file as long as nobody touches it."""

    size: int
    mtime_ns: int
    inode: int


class TemplateRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A template, written before anything of it is made; `ready` once all of it is.

    `directory` holds its memory and the empty overlays of `disks` that clones begin with, `run_dir`
    what the VMM it is made with needs meanwhile. `marks` are those of every file clones need, by
    path.
    """

    key: str
    image_id: str
    kernel_id: str
    spec: VMSpec
    disks: Layers
    directory: str
    run_dir: str
    created_at: float
    used_at: float
    marks: dict[str, FileMark] = {}
    ready: bool = False


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
