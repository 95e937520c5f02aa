"""Where images are kept: `images/<id>/{rootfs.ext4,work.ext4}`, as `artifacts` describes."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from banger.api.errors import ErrorCode
from banger.api.models import Image
from banger.host.paths import Paths
from banger.image.artifacts import Artifacts, Manifest

ROOTFS = "rootfs.ext4"
WORK_SEED = "work.ext4"


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """An image and its files: both sparse ext4, read-only, verified when this was made."""

    image: Image
    rootfs: Path
    work_seed: Path


class ImageStore:
    """The images of one installation. Blocking: call it in a thread from the daemon."""

    def __init__(self, paths: Paths) -> None:
        self.root = paths.images
        self._artifacts = Artifacts(
            paths.images,
            Manifest[Image],
            "image",
            ErrorCode.UNKNOWN_IMAGE,
            hint="see what there is: banger image list; make one: banger image build",
        )

    def list(self) -> list[Image]:
        """All images that have a name, sorted by it; reads manifests only."""
        return [
            msgspec.structs.replace(image, name=name) for name, image in self._artifacts.named()
        ]

    def get(self, name: str) -> ImageFiles:
        """The image `name` points at now. Raises what `by_id` raises."""
        found = self.by_id(self._artifacts.resolve(name))
        return ImageFiles(
            msgspec.structs.replace(found.image, name=name), found.rootfs, found.work_seed
        )

    def by_id(self, image_id: str) -> ImageFiles:
        """An image by id, also one whose name points elsewhere by now; its files verified.

        Raises CallerError(unknown_image), PermanentError(image_corrupt).
        """
        image, directory = self._artifacts.get(image_id)
        return ImageFiles(image, directory / ROOTFS, directory / WORK_SEED)

    def staging(self) -> contextlib.AbstractContextManager[Path]:
        """A private directory to put `rootfs.ext4` and `work.ext4` in, gone after the block."""
        return self._artifacts.staging()

    def publish(self, staged: Path, name: str, describe: Callable[[str], Image]) -> Image:
        """Make what is in `staged` an image and `name` point at it; `describe` is given its id.

        Raises PermanentError(insufficient_disk).
        """
        return self._artifacts.publish(staged, name, describe)

    def delete(self, name: str) -> None:
        """Take the name away; `prune` removes the files. Raises CallerError(unknown_image)."""
        self._artifacts.unname(name)

    def unreferenced(self, used: set[str]) -> builtins.list[str]:
        """Ids that have no name and are not in `used`."""
        return self._artifacts.unreferenced(used)

    def prune(self, used: set[str]) -> builtins.list[str]:
        """Remove the images `unreferenced` lists, and say which those were."""
        return self._artifacts.prune(used)

    def sweep(self) -> None:
        """Remove what a crash left behind; never what another process is working on."""
        self._artifacts.sweep()
