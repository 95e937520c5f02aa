"""What this installation has: its default image, and what nobody owns any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

from banger.api.models import Check, Image
from banger.api.sizes import format_size
from banger.daemon.doctor.findings import passed, warned
from banger.host.config import load_config, resolve_defaults
from banger.host.files import allocated_bytes
from banger.host.paths import Paths

# A few are shown; more would hide the rest of the report.
_SHOWN = 10


async def default_image(
    config_file: Path, images: Callable[[], Awaitable[Sequence[Image]]]
) -> Check:
    """The image a VM gets when nobody names one is there."""
    wanted = resolve_defaults(load_config(config_file)).image
    for image in await images():
        if image.name == wanted:
            size = format_size(image.allocated_bytes)
            return passed("default image", f"{wanted} is there ({size} on disk)")

    return warned(
        "default image",
        f"{wanted} is not there yet: the first VM waits for it",
        f"banger image build {wanted}",
    )


async def leftovers(paths: Paths, vm_ids: Callable[[], Awaitable[Collection[str]]]) -> Check:
    """No directory of a VM that the store does not know."""
    # In this order: a VM's row is written before its directories are made.
    found = await asyncio.to_thread(_directories, (paths.vms, paths.vm_run))
    known = await vm_ids()
    stale = [directory for directory in found if directory.name not in known]
    if not stale:
        return passed("leftovers", "nothing is left of VMs that are gone")

    size = format_size(await asyncio.to_thread(lambda: sum(map(allocated_bytes, stale))))
    return warned(
        "leftovers",
        f"{len(stale)} directories ({size}) belong to no VM that banger knows",
        f"look at them, then remove them: rm -r {' '.join(map(str, stale[:_SHOWN]))}",
        *map(str, stale[:_SHOWN]),
    )


def _directories(parents: Sequence[Path]) -> list[Path]:
    present = (parent for parent in parents if parent.is_dir())
    return sorted(entry for parent in present for entry in parent.iterdir())
