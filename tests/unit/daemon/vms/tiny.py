"""An image that is made in no time, and what a guest of it says of itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

from banger.api.models import Image, Kernel
from banger.api.sizes import MIB
from banger.daemon.operations import Progress
from banger.image.kernels import KernelFiles
from banger.image.store import ImageFiles

DISK = 4 * MIB

# The agent's answer to `stats`.
STATS = {
    "uptime": 1.0,
    "load": (0.0, 0.0, 0.0),
    "memory_total": 512 * MIB,
    "memory_available": 400 * MIB,
    "swap_total": 0,
    "swap_free": 0,
    "cpu_busy": 1.0,
    "cpu_idle": 1.0,
    "processes": 20,
    "disks": (),
}


class TinyImages:
    """One image of two empty file systems, and a kernel that is never run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        for name in ("rootfs", "work"):
            path = directory / name
            if not path.exists():
                subprocess.run(["mke2fs", "-q", "-t", "ext4", path, "4M"], check=True)

        (directory / "initramfs").write_bytes(b"")
        self.image = Image(
            id="i1", name="tiny", kernel="k1", created_at=0.0,
            root_size=DISK, work_size=DISK, allocated_bytes=0,
        )  # fmt: skip

    async def resolve(self, name: str, progress: Progress) -> Image:
        del name, progress
        return self.image

    async def list(self) -> list[Image]:
        return [self.image]

    async def by_id(self, image_id: str) -> ImageFiles:
        del image_id
        return ImageFiles(self.image, self.directory / "rootfs", self.directory / "work")

    async def kernel_files(self, ref: str) -> KernelFiles:
        kernel = Kernel(id=ref, name=ref, release="1", created_at=0.0, allocated_bytes=0)
        return KernelFiles(kernel, self.directory, self.directory, self.directory)

    async def initramfs(self, kernel_id: str) -> Path:
        del kernel_id
        return self.directory / "initramfs"
