"""Building an image: Debian packages in, a published image and its kernel out.

mmdebstrap, run by build.sh in namespaces of its own, makes the file system tree; mke2fs turns it
into file systems without mounting anything. Everything is made in claimed directories, so that
whatever ends a build early leaves only what `sweep` knows to remove.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import ParamSpec, TypeVar

from banger.api.errors import ErrorCode, PermanentError
from banger.api.models import Image, Kernel
from banger.api.sizes import GIB, format_size
from banger.host import runner
from banger.host.files import MAKE_ROOM, allocated_bytes, remove_tree, room_for
from banger.image.bzimage import extract_vmlinux
from banger.image.claims import abandoned, claim
from banger.image.failure import explain
from banger.image.isolation import Isolation, isolation, remove_as_root
from banger.image.kernels import KernelStore, select_modules
from banger.image.progress import EXTRACT, PUBLISH, RESOLVE, Progress, Report
from banger.image.recipe import Recipe
from banger.image.sources import AptSetup, host_setup, without_credentials
from banger.image.store import ImageStore

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# The tree of the built-in recipe and its packages take 0.6 GiB; what is published as much again.
ROOM_ON_DISK = 2 * GIB
# A tree in memory spares dpkg's many fsync(2), a sixth of the time; half of what is free may go.
MEMORY_FOR_TREE = 2 * GIB

WORK = "build-"
_TIMEOUT = 3600.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class _Places:
    """Where one build works: for everything temporary, for the image's files, for the kernel's."""

    work: Path
    seeds: Path
    boot: Path


async def build_image(
    recipe: Recipe, images: ImageStore, kernels: KernelStore, cache: Path, report: Report
) -> Image:
    """Build `recipe`, publish the image and its kernel, and point the image's name at it.

    `report` gets the stage under way and a detail, or None; the same stage again is news of it.
    Cancelled or failed, nothing is left and the name points where it did; once publishing has
    begun, it is brought to its end before a cancellation takes effect. Raises PermanentError:
    insufficient_disk, tool_missing, unsupported_host, image_build_failed; CallerError
    (image_build_failed) for an unknown package; TransientError(image_build_failed) without network.
    """
    report(RESOLVE, None)
    await sweep(images, kernels, cache)
    for directory in (images.root, cache):
        _check_room(directory)

    apart = await isolation()
    setup = await host_setup(recipe.suite)
    with images.staging() as seeds, kernels.staging() as boot:
        async with _work_directory(cache) as work:
            await _make_files(recipe, _Places(work, seeds, boot), apart, setup, report)

        report(EXTRACT, None)
        facts = await _to_the_end(_extract_kernel, boot)
        report(PUBLISH, None)
        return await _to_the_end(_publish, recipe, facts, images, kernels, seeds, boot)


async def sweep(images: ImageStore, kernels: KernelStore, cache: Path) -> None:
    """Remove what builds that were killed left; what is still being built is left alone."""
    await asyncio.to_thread(images.sweep)
    await asyncio.to_thread(kernels.sweep)
    for directory in abandoned(works(cache), WORK):
        await remove_as_root(directory)


async def _to_the_end(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    # A thread cannot be cancelled, and what it works on may not be taken away under it.
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    finally:
        await asyncio.wait([task])


@contextlib.asynccontextmanager
async def _work_directory(cache: Path) -> AsyncIterator[Path]:
    with room_for(cache), claim(works(cache), WORK) as work:
        try:
            yield work
        finally:
            # Also when cancelled: what takes it away must run to its end.
            await asyncio.shield(remove_as_root(work))


async def _make_files(
    recipe: Recipe, places: _Places, apart: Isolation, setup: AptSetup, report: Report
) -> None:
    memory = _memory_to_use() if apart.mounts else None
    try:
        await _run(recipe, places, apart, setup, report, memory)
    except PermanentError as error:
        if error.code is not ErrorCode.INSUFFICIENT_DISK or memory is None:
            raise
        log.info("the tree does not fit into %s of memory, using the disk", format_size(memory))
        for directory in (places.seeds, places.boot):
            _empty(directory)

        await _run(recipe, places, apart, setup, report, None)


async def _run(
    recipe: Recipe,
    places: _Places,
    apart: Isolation,
    setup: AptSetup,
    report: Report,
    memory: int | None,
) -> None:
    with resources.as_file(resources.files("banger.image") / "build.sh") as script:
        result = await runner.run(
            [*apart.prefix, "sh", script, recipe.suite, f"--include={_packages(recipe)}"],
            stdin=setup.archive(),
            env=_environment(recipe, places, memory),
            cwd=Path("/"),
            check=False,
            timeout=_TIMEOUT,
            on_line=Progress(report).hear,
        )

    if result.status != 0:
        output = result.stderr.decode(errors="replace")
        log.warning("building %s failed:\n%s", recipe.name, without_credentials(output[-8192:]))
        raise explain(output, recipe.suite)


def _environment(recipe: Recipe, places: _Places, memory: int | None) -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return passed_on | {
        "PATH": _PATH,
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "WORK": str(places.work),
        "SEEDS": str(places.seeds),
        "BOOT": str(places.boot),
        "MEMORY": "" if memory is None else str(memory),
        "ROOT_SIZE": str(recipe.root_size),
        "WORK_SIZE": str(recipe.work_size),
        "DOCUMENTATION": "yes" if recipe.documentation else "",
    }


def _packages(recipe: Recipe) -> str:
    return ",".join((*recipe.packages, recipe.kernel_package))


def _extract_kernel(boot: Path) -> dict[str, str]:
    with room_for(boot):
        extract_vmlinux(boot / "vmlinuz", boot / "vmlinux")
        select_modules(boot / "lib-modules", boot / "modules")
        remove_tree(boot / "lib-modules")
        lines = (boot / "facts").read_text().splitlines()
        (boot / "facts").unlink()

    return dict(line.split("=", 1) for line in lines)


def _publish(
    recipe: Recipe,
    facts: dict[str, str],
    images: ImageStore,
    kernels: KernelStore,
    seeds: Path,
    boot: Path,
) -> Image:
    def describe_kernel(kernel_id: str) -> Kernel:
        return Kernel(
            id=kernel_id,
            name=facts["release"],
            release=facts["release"],
            created_at=time.time(),
            allocated_bytes=allocated_bytes(boot),
            source=f"{recipe.kernel_package} {facts['kernel_version']}",
        )

    def describe_image(image_id: str) -> Image:
        return Image(
            id=image_id,
            name=recipe.name,
            kernel=kernel.id,
            created_at=time.time(),
            root_size=recipe.root_size,
            work_size=recipe.work_size,
            allocated_bytes=allocated_bytes(seeds),
            distribution=facts["distribution"],
            packages=recipe.packages,
        )

    before = kernels.ids()
    kernel = kernels.publish(boot, facts["release"], describe_kernel)
    try:
        return images.publish(seeds, recipe.name, describe_image)
    except BaseException:
        kernels.discard({kernel.id} - before)
        raise


def _check_room(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = os.statvfs(directory)
    free = info.f_bavail * info.f_frsize
    if free < ROOM_ON_DISK:
        raise PermanentError(
            ErrorCode.INSUFFICIENT_DISK,
            f"{format_size(free)} is free on the disk of {directory}, building an image takes"
            f" {format_size(ROOM_ON_DISK)}",
            hint=MAKE_ROOM,
        )


def _memory_to_use() -> int | None:
    # proc_meminfo(5): MemAvailable, in KiB, is what can be had without swapping.
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    half = int(fields["MemAvailable"].split()[0]) * 1024 // 2
    return half if half >= MEMORY_FOR_TREE else None


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        remove_tree(entry)


def works(cache: Path) -> Path:
    """Where builds keep what is temporary, in directories called `WORK` and something."""
    return cache / "builds"
