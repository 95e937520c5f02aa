"""What tests of checkpoints need: disks of layers, and what a guest would write to them."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from msgspec.structs import replace

from banger.hypervisor.base import Disk, LaunchPlan, MemoryImage, VMMHandle
from banger.hypervisor.qemu.driver import Qemu

MIB = 1 << 20


def overlay(path: Path, over: Path | None = None, size: int = 8 * MIB) -> Path:
    """A new empty overlay, of `over` if given."""
    backing = ["-b", str(over), "-F", "qcow2"] if over else []
    length = [] if over else [str(size)]
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(path), *length]
    subprocess.run(command, check=True)
    return path


def disk(serial: str, path: Path) -> Disk:
    return Disk(serial=serial, path=path, format="qcow2")


async def write(
    qemu: Qemu, handle: VMMHandle, serial: str, fill: int, at: int = 0, length: int = 4096
) -> None:
    """Write `length` bytes `fill` to the disk of a VM that runs, as its guest would."""
    command = f'qemu-io -d {serial} "write -P {fill} {at} {length}"'
    await _monitor(qemu, handle, command)
    await _monitor(qemu, handle, f"qemu-io -d {serial} flush")


def read(path: Path, at: int = 0) -> int:
    """What the first byte of such a page of a disk nobody writes to is."""
    # fmt: off
    with tempfile.NamedTemporaryFile() as page:
        subprocess.run(
            ["qemu-img", "dd", "-U", "-O", "raw", "bs=4096", f"skip={at // 4096}",
             f"count={at // 4096 + 1}", f"if={path}", f"of={page.name}"],
            check=True,
        )
        content = page.read()
    # fmt: on
    assert content == content[:1] * 4096
    return content[0]


async def checkpoint(
    qemu: Qemu, handle: VMMHandle, home: Path, overlays: tuple[Disk, ...] = ()
) -> MemoryImage:
    """A saved and converted guest that goes on."""
    stream = home / "stream"
    image = MemoryImage(directory=home / f"image{len(list(home.iterdir()))}")
    await qemu.save(handle, stream, overlays, resume=True)
    await qemu.convert(stream, image)
    stream.unlink()
    return image


def elsewhere(plan: LaunchPlan, name: str, **changes: object) -> LaunchPlan:
    """The plan of another VM."""
    run_dir = plan.run_dir.with_name(name)
    run_dir.mkdir(mode=0o700)
    log = plan.console_log.with_name(f"{name}.log")
    return replace(plan, name=name, run_dir=run_dir, console_log=log, **changes)


async def _monitor(qemu: Qemu, handle: VMMHandle, command: str) -> None:
    qmp = await qemu._monitor(handle).qmp()
    answer = await qmp.run("human-monitor-command", {"command-line": command})
    assert b"rror" not in bytes(answer), answer
