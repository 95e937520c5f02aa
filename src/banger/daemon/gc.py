"""Garbage: what lies in banger's directories and belongs to nothing the store knows.

Rows are written before what they name is made, and removed after it, or while an operation sees to
the rest. So what was there before the rows were read, and that none of them names, is garbage,
whatever goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import BangerError
from banger.api.models import Garbage
from banger.daemon.store.rows import Layers
from banger.daemon.vms.layers import SERIALS, path_of
from banger.daemon.vms.machine import Site
from banger.daemon.vms.start import TERMINATE_SECONDS
from banger.host.files import allocated_bytes, remove_tree
from banger.host.paths import Paths
from banger.host.threads import in_thread
from banger.storage.garbage import Freed, list_layers, sweep, unreachable

log = logging.getLogger(__name__)

# Deletions that follow one another so closely are cleaned up after together.
SOON_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Listing:
    layers: tuple[Path, ...]
    directories: tuple[Path, ...]
    run_directories: tuple[Path, ...]


class Collector:
    """Removes garbage: when asked to, and soon after there may be some (`Site.litter`)."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Collect in the background from now on."""
        self._task = asyncio.create_task(self._collect_soon())

    async def close(self) -> None:
        """Leave what is garbage then to the next daemon."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def collect(self, *, idle: bool = False) -> Garbage:
        """Remove what is garbage now, and say what it was. With `idle` nothing else goes on.

        Raises OSError.
        """
        async with self._turn:
            listing = await in_thread(_list, self._site.paths)
            tops, names = await self._known()
            layers = await in_thread(_sweep_layers, listing.layers, tops, idle=idle)
            directories = [path for path in listing.directories if path.name not in names]
            stale = [path for path in listing.run_directories if path.name not in names]
            for run_dir in stale:
                await self._end_vmm(run_dir)

            trees = await in_thread(_remove_trees, self._site.paths, [*directories, *stale])

        found = Garbage(
            removed=(*(f"disks/{name}" for name in layers.names), *trees.names),
            freed_bytes=layers.allocated + trees.allocated,
        )
        if found.removed:
            log.info("removed %d things nobody needs: %s", len(found.removed), found.removed)

        return found

    async def _collect_soon(self) -> None:
        while True:
            await self._site.litter.wait()
            await asyncio.sleep(SOON_SECONDS)
            self._site.litter.clear()
            try:
                await self.collect()
            except (BangerError, OSError) as error:
                log.warning("garbage stays for now: %s", error)

    async def _known(self) -> tuple[list[Path], set[str]]:
        """All tops of disks, and the names of all directories, that rows speak of."""
        # Of one moment: a layer may go from the one to the other and leave the first meanwhile.
        rows = await self._site.store.census()
        disks: list[Layers | None] = [row.handles.disks for row in rows.vms]
        disks += [row.handles.next for row in rows.vms]
        disks += [row.disks for row in rows.snapshots]
        disks += [row.disks for row in rows.templates]
        tops = [path_of(layers, serial) for layers in disks if layers for serial in SERIALS]
        ids = {row.id for row in rows.vms} | {row.id for row in rows.snapshots}
        return tops, ids | {row.key for row in rows.templates}

    async def _end_vmm(self, run_dir: Path) -> None:
        handle = await self._site.hypervisor.find(run_dir)
        if handle is not None:
            try:
                await self._site.hypervisor.terminate(handle, TERMINATE_SECONDS)
            except BangerError as error:
                log.warning("a VMM that belongs to nothing could not be ended: %s", error)


def _list(paths: Paths) -> _Listing:
    return _Listing(
        layers=list_layers(paths.disks),
        directories=(
            *_entries(paths.vms),
            *_entries(paths.snapshots),
            *_entries(paths.templates),
        ),
        run_directories=(*_entries(paths.vm_run), *_entries(paths.template_run)),
    )


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.exists() else []


def _sweep_layers(listed: tuple[Path, ...], tops: list[Path], *, idle: bool) -> Freed:
    found = unreachable(listed, tops, idle=idle)
    for error in found.unreadable:
        log.warning("no disk layer is removed: %s", error.message)

    return sweep(found.files)


def _remove_trees(paths: Paths, trees: list[Path]) -> Freed:
    names, allocated = [], 0
    for tree in trees:
        size = allocated_bytes(tree)
        remove_tree(tree)
        allocated += size
        root = paths.state if tree.is_relative_to(paths.state) else paths.run
        names.append(str(tree.relative_to(root)))

    return Freed(tuple(names), allocated)
