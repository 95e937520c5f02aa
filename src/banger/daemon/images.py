"""Images and kernels for the API and for the VMs: building, finding, and what may be deleted."""

from __future__ import annotations

import asyncio
import builtins
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import BuildImage, Image, Kernel, Operation
from banger.daemon.operations import Operations, Progress
from banger.daemon.store import Store
from banger.guest import initramfs
from banger.host.config import DEFAULT_IMAGE
from banger.host.paths import Paths
from banger.host.threads import in_thread
from banger.image.builder import Builder
from banger.image.kernels import KernelFiles, KernelStore
from banger.image.recipe import Recipe, builtin_recipe, is_builtin, parse_recipe
from banger.image.store import ImageFiles, ImageStore


class Follower(Protocol):
    """Who has to know what becomes of images."""

    async def images_changed(self, built: Image | None) -> None:
        """An image was built, or one is gone."""


class Images:
    """Implements the image and kernel part of the API; VMs get their files through it too."""

    def __init__(
        self, paths: Paths, store: Store, operations: Operations, builder: Builder
    ) -> None:
        self._paths = paths
        self._builder = builder
        self._store = store
        self._operations = operations
        self._images = ImageStore(paths)
        self._kernels = KernelStore(paths)
        self._building: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._followers: builtins.list[Follower] = []
        self._fingerprints: dict[int, str] = {}

    def follow(self, follower: Follower) -> None:
        """Tell `follower` of every change, before what nothing refers to any more is removed."""
        self._followers.append(follower)

    async def list(self) -> list[Image]:
        return await in_thread(self._images.list)

    async def show(self, name: str) -> Image:
        return (await in_thread(self._images.get, name)).image

    async def kernels(self) -> builtins.list[Kernel]:
        return await in_thread(self._kernels.list)

    async def kernel(self, name: str) -> Kernel:
        return (await self.kernel_files(name)).kernel

    async def by_id(self, image_id: str) -> ImageFiles:
        """The files of an image, its content verified. Raises PermanentError(image_corrupt)."""
        return await in_thread(self._images.by_id, image_id)

    async def kernel_files(self, ref: str) -> KernelFiles:
        return await in_thread(self._kernels.get, ref)

    async def initramfs(self, kernel_id: str) -> Path:
        """The shared initial RAM file system for a kernel, built once per version of its parts."""
        kernel = await self.kernel_files(kernel_id)
        path = await self._initramfs_of(kernel.kernel.id)
        async with self._building[path.name]:
            if not path.exists():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                await in_thread(initramfs.build_initramfs, kernel.modules, path)

        return path

    async def resolve(self, name: str, progress: Progress) -> Image:
        """The image called `name`; one that banger has a recipe for is built when missing."""
        if is_builtin(name) and not await self._exists(name):
            await self._build(builtin_recipe(name), progress, again=False)

        return await self.show(name)

    async def build(self, request: BuildImage) -> Operation:
        """Build an image from the request's recipe, or from the built-in one of that name.

        Raises CallerError: name_taken without `force`, invalid_request for a bad recipe.
        """
        recipe = _recipe(request)
        if not request.force and await self._exists(recipe.name):
            raise CallerError(
                ErrorCode.NAME_TAKEN,
                f"image {recipe.name} exists already",
                hint=f"rebuild it with: banger image build {recipe.name} --force",
            )

        async def body(progress: Progress) -> None:
            await self._build(recipe, progress, again=request.force)
            await self._tell(await self.show(recipe.name))
            await self.prune()

        return await self._operations.start(
            "image.build", body, target=None, target_name=recipe.name
        )

    async def delete(self, name: str) -> Operation:
        """Delete an image that no VM uses. Raises CallerError: unknown_image, image_in_use."""
        image = await self._listed(name)
        users = await self._users(image.id)
        if users:
            raise CallerError(
                ErrorCode.IMAGE_IN_USE,
                f"image {name} is in use by {', '.join(users)}",
                hint="delete those VMs first: banger vm delete NAME",
            )

        async def body(progress: Progress) -> None:
            progress.stage("delete")
            await in_thread(self._images.delete, name)
            await self._tell(None)
            await self.prune()

        return await self._operations.start("image.delete", body, target=image.id, target_name=name)

    async def tidy(self) -> None:
        """Remove what killed builds left, and what nothing refers to any more."""
        await self._builder.sweep()
        await self.prune()

    async def prune(self) -> None:
        """Remove what nothing refers to: images that were rebuilt, kernels without an image."""
        await in_thread(self._images.prune, await self._store.images_in_use())
        kernels = await self._store.kernels_in_use()
        kernels |= {image.kernel for image in await self.list()}
        await in_thread(self._kernels.prune, kernels)
        wanted = {await self._initramfs_of(kernel_id) for kernel_id in kernels}
        for stale in set((self._paths.cache / "initramfs").glob("*.cpio")) - wanted:
            stale.unlink(missing_ok=True)

    async def _build(self, recipe: Recipe, progress: Progress, *, again: bool) -> None:
        async with self._building[recipe.name]:
            # Whoever waited for another build of the same image has what it wanted.
            if not again and await self._exists(recipe.name):
                return

            await self._builder.build(recipe, _reporter(progress))

    async def _exists(self, name: str) -> bool:
        return any(image.name == name for image in await self.list())

    async def _listed(self, name: str) -> Image:
        # Not verified: what is damaged must be deletable.
        for image in await self.list():
            if image.name == name:
                return image

        return await self.show(name)

    async def _tell(self, built: Image | None) -> None:
        for follower in self._followers:
            await follower.images_changed(built)

    async def _initramfs_of(self, kernel_id: str) -> Path:
        # It takes 0.1 s, and nothing else of what it covers changes while this process runs.
        busybox = initramfs.BUSYBOX.stat().st_mtime_ns if initramfs.BUSYBOX.exists() else 0
        if busybox not in self._fingerprints:
            self._fingerprints[busybox] = await in_thread(initramfs.fingerprint)

        name = f"{kernel_id}-{self._fingerprints[busybox]}.cpio"
        return self._paths.cache / "initramfs" / name

    async def _users(self, image_id: str) -> builtins.list[str]:
        rows = await self._store.vms()
        return [row.name for row in rows if row.image_id == image_id and not row.standby]


def _reporter(progress: Progress) -> Callable[[str, str | None], None]:
    present: str | None = None

    def report(stage: str, detail: str | None) -> None:
        nonlocal present
        if stage != present:
            present = stage
            progress.stage(stage, detail)
        elif detail is not None:
            progress.detail(detail)

    return report


def _recipe(request: BuildImage) -> Recipe:
    if request.recipe is not None:
        recipe = parse_recipe(request.recipe)
        if request.name not in (None, recipe.name):
            raise CallerError(
                ErrorCode.INVALID_REQUEST,
                f"the recipe is for image {recipe.name}, not {request.name}",
                hint="leave the name out, or change it in the recipe",
            )

        return recipe

    return builtin_recipe(request.name or DEFAULT_IMAGE)
