"""VM rows for tests: valid, and different where they must be."""

from __future__ import annotations

from banger.api.models import VMSpec, VMState
from banger.api.sizes import GIB, MIB
from banger.daemon.store import Handles, VMRow


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
        ),
        created_at=1000.0,
        updated_at=1000.0,
    )
