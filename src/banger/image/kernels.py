"""Where kernels are kept: `kernels/<id>/{vmlinuz,vmlinux,modules/}`, as `artifacts` describes.

`modules/` is the part of /lib/modules/<release> that an initramfs may need, modules.dep included.
"""

from __future__ import annotations

import builtins
import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError
from banger.api.models import Kernel
from banger.host.paths import Paths
from banger.image.artifacts import Artifacts, Manifest

# Enough for any root disk and channel of a virtual machine, and what it takes to mount the root.
# fmt: off
WANTED_MODULES = frozenset((
    "virtio_mmio", "virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "virtio_console",
    "virtio_rng", "virtio_balloon", "virtio_pmem", "virtiofs", "vsock", "9p", "9pnet_virtio",
    "vmw_vsock_virtio_transport", "sd_mod", "nvme", "ext4", "squashfs", "erofs", "overlay", "fuse",
    "loop", "dm_mod", "dm_snapshot", "af_packet", "crc32c_generic", "crc32c_intel",
))
# fmt: on


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """A kernel and its files: ELF, bzImage, and the directory with modules.dep; all verified."""

    kernel: Kernel
    vmlinux: Path
    vmlinuz: Path
    modules: Path


class KernelStore:
    """The kernels of one installation. Blocking: call it in a thread from the daemon."""

    def __init__(self, paths: Paths) -> None:
        self.root = paths.kernels
        self._artifacts = Artifacts(
            paths.kernels,
            Manifest[Kernel],
            "kernel",
            ErrorCode.UNKNOWN_KERNEL,
            hint="see what there is: banger kernel list",
        )

    def list(self) -> list[Kernel]:
        """All kernels that have a name, sorted by it; reads manifests only."""
        return [kernel for _, kernel in self._artifacts.named()]

    def get(self, name_or_id: str) -> KernelFiles:
        """A kernel, its files verified.

        Raises CallerError(unknown_kernel), PermanentError(image_corrupt).
        """
        known = self._artifacts.has(name_or_id)
        artifact = name_or_id if known else self._artifacts.resolve(name_or_id)
        kernel, directory = self._artifacts.get(artifact)
        return KernelFiles(
            kernel, directory / "vmlinux", directory / "vmlinuz", directory / "modules"
        )

    def ids(self) -> set[str]:
        """The ids of all kernels, named or not."""
        return self._artifacts.ids()

    def discard(self, kernel_ids: set[str]) -> None:
        """Remove those kernels and their names."""
        self._artifacts.discard(kernel_ids)

    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """A private directory to put vmlinux, vmlinuz and modules/ in, gone after the block."""
        return self._artifacts.staging()

    def publish(self, staged: Path, name: str, describe: Callable[[str], Kernel]) -> Kernel:
        """Make what is in `staged` a kernel and `name` point at it; `describe` is given its id.

        Raises PermanentError(insufficient_disk).
        """
        return self._artifacts.publish(staged, name, describe)

    def delete(self, name: str) -> None:
        """Take the name away; `prune` removes the files. Raises CallerError(unknown_kernel)."""
        self._artifacts.unname(name)

    def prune(self, used: set[str]) -> builtins.list[str]:
        """Remove the kernels that are not in `used`, named or not, and say which those were."""
        doomed = self.ids() - used
        self.discard(doomed)
        return sorted(doomed)

    def sweep(self) -> None:
        """Remove what a crash left behind; never what another process is working on."""
        self._artifacts.sweep()


def select_modules(tree: Path, target: Path) -> None:
    """Copy from `tree`, a /lib/modules/<release>, the modules an initramfs may need to `target`.

    Everything they depend on comes along, and a modules.dep (modules.dep(5)) of just those. What
    the tree does not have is built into the kernel. Raises PermanentError(image_corrupt).
    """
    chosen = dict(_closure(_dependencies(tree)))
    for path in chosen:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree / path, target / path)

    target.mkdir(exist_ok=True)
    lines = (f"{path}: {' '.join(needs)}".rstrip() for path, needs in sorted(chosen.items()))
    (target / "modules.dep").write_text("".join(f"{line}\n" for line in lines))


def _dependencies(tree: Path) -> dict[str, builtins.list[str]]:
    try:
        lines = (tree / "modules.dep").read_text().splitlines()
    except OSError as error:
        raise PermanentError(
            ErrorCode.IMAGE_CORRUPT, f"the kernel package has no modules.dep: {error.strerror}"
        ) from None
    pairs = (line.partition(":") for line in lines)
    return {path: needs.split() for path, _, needs in pairs}


def _closure(
    dependencies: dict[str, builtins.list[str]],
) -> Iterator[tuple[str, builtins.list[str]]]:
    waiting = [path for path in dependencies if _module_name(path) in WANTED_MODULES]
    while waiting:
        path = waiting.pop()
        needs = dependencies.get(path, [])
        yield path, needs
        waiting += needs


def _module_name(path: str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")
