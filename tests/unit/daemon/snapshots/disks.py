"""What is on the disks of VMs of the fake world, read and written as their guests would."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.unit.daemon.vms.world import Daemon

from banger.daemon.store.rows import Handles
from banger.storage.layers import disk_format

BLOCK = 64 * 1024


def tops(life: Daemon, handles: Handles) -> dict[str, Path]:
    """Where the guest writes: what its VMM has open, else what its row says."""
    if handles.vmm is not None and life.hypervisor.alive(handles.vmm):
        return life.hypervisor.guest(handles.vmm).disks

    return {"root": Path(handles.disks.root.path), "work": Path(handles.disks.work.path)}


async def write(life: Daemon, name: str, serial: str, block: int, value: int) -> None:
    """Fill a block of a VM's disk."""
    handles = (await life.site.store.find_vm(name)).handles
    _io(tops(life, handles)[serial], f"write -q -P {value} {block * BLOCK} {BLOCK}")


async def read(life: Daemon, name: str, serial: str, blocks: int) -> list[int]:
    """What was written last to the first so many blocks."""
    handles = (await life.site.store.find_vm(name)).handles
    return content(tops(life, handles)[serial], blocks)


def content(top: Path, blocks: int) -> list[int]:
    """What was written last to the first so many blocks of a disk."""
    with tempfile.NamedTemporaryFile() as raw:
        command: list[str | Path] = ["qemu-img", "dd", "-U", "-f", _format(top), "-O", "raw"]
        command += [f"if={top}", f"of={raw.name}", f"bs={BLOCK}", f"count={blocks}"]
        subprocess.run(command, check=True, capture_output=True)
        data = Path(raw.name).read_bytes()

    return [data[block * BLOCK + 100] for block in range(blocks)]


async def set_memory(life: Daemon, name: str, text: str) -> None:
    """Change what the guest of a VM that runs knows."""
    handle = (await life.site.store.find_vm(name)).handles.vmm
    assert handle is not None
    life.hypervisor.guest(handle).memory = text


async def memory(life: Daemon, name: str) -> str:
    handle = (await life.site.store.find_vm(name)).handles.vmm
    assert handle is not None
    guest = life.hypervisor.guest(handle)
    assert not guest.paused
    assert not guest.frozen
    return guest.memory


def _format(disk: Path) -> str:
    """To QEMU's tools a file that a root device writes to is a raw one."""
    return "qcow2" if disk_format(disk) == "qcow2" else "raw"


def _io(path: Path, command: str) -> None:
    arguments: list[str | Path] = ["qemu-io", "-f", _format(path), "-c", command, path]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "failed" not in done.stderr + done.stdout, done.stderr + done.stdout
