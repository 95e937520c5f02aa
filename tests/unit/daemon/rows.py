"""VM rows for tests: valid, and different where they must be."""

from __future__ import annotations

from banger.api.models import VMSpec, VMState
from banger.api.sizes import GIB, MIB
from banger.daemon.store import Handles, VMRow
from banger.daemon.store.rows import DiskFile, Layers, SnapshotRow, TemplateRow


def vm_row(number: int = 0, *, name: str | None = None, vm_id: str | None = None) -> VMRow:
    """The VM `number`, called `vm-<number>` unless named otherwise."""
    vm_id = vm_id or f"{number:012x}"
    return VMRow(
        id=vm_id,
        name=name or f"vm-{number}",
        state=VMState.STOPPED,
        spec=VMSpec(
            image="debian-bookworm", vcpus=2, memory=512 * MIB, root_size=8 * GIB, disk_size=8 * GIB
        ),
        image_id="image-1",
        kernel_id="kernel-1",
        handles=Handles(
            vm_dir=f"/state/vms/{vm_id}",
            run_dir=f"/run/vm/{vm_id}",
            address="10.213.0.4",
            mac="52:54:00:00:00:01",
            ssh_port=42000,
            disks=Layers(
                root=DiskFile(path=f"/state/disks/{vm_id}.qcow2", format="qcow2"),
                work=DiskFile(path=f"/state/disks/{vm_id}.raw", format="raw"),
            ),
        ),
        created_at=1000.0,
        updated_at=1000.0,
    )


def snapshot_row(number: int, vm: VMRow, *, name: str | None = None) -> SnapshotRow:
    """The snapshot `number` of `vm`."""
    return SnapshotRow(
        id=f"{number:012x}",
        vm_id=vm.id,
        name=name,
        spec=vm.spec,
        image_id=f"image-of-snapshot-{number}",
        kernel_id=f"kernel-of-snapshot-{number}",
        disks=vm.handles.disks,
        created_at=1000.0 + number,
    )


def template_row(number: int, *, used_at: float = 1000.0) -> TemplateRow:
    """The template `number`."""
    vm = vm_row(number)
    return TemplateRow(
        key=f"{number:064x}",
        image_id=f"image-of-template-{number}",
        kernel_id=f"kernel-of-template-{number}",
        spec=vm.spec,
        disks=vm.handles.disks,
        directory=f"/state/templates/{number}",
        run_dir=f"/run/template/{number}",
        created_at=1000.0,
        used_at=used_at,
    )
