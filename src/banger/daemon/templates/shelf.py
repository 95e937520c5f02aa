"""The templates there are: who uses them now, what they take, and which of them go first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from banger.daemon.store.rows import TemplateRow
from banger.daemon.templates.making import mark, take_back
from banger.daemon.vms.machine import Site
from banger.host.files import allocated_bytes
from banger.host.threads import in_thread
from banger.storage import layers

log = logging.getLogger(__name__)

# Removes the disk layers that nothing needs any more.
Sweep = Callable[[], Awaitable[object]]

# Has something done in the background.
Spawn = Callable[[Coroutine[Any, Any, None]], None]


class Shelf:
    """Hands out templates that are ready, and removes none while somebody makes a VM of it."""

    def __init__(self, site: Site, sweep: Sweep, spawn: Spawn) -> None:
        self._site = site
        self._sweep = sweep
        self._spawn = spawn
        self._users: Counter[str] = Counter()
        self._leaving: set[str] = set()
        self._returned = asyncio.Condition()
        self._followers: list[Callable[[str], Awaitable[None]]] = []

    def follow(self, follower: Callable[[str], Awaitable[None]]) -> None:
        """Have `follower` called with the key of each template that goes, before it does."""
        self._followers.append(follower)

    async def ready(self) -> list[TemplateRow]:
        """All templates that can be used, the one used last first."""
        rows = await self._site.store.templates()
        return [row for row in rows if row.ready and row.key not in self._leaving]

    @contextlib.asynccontextmanager
    async def take(self, key: str) -> AsyncIterator[TemplateRow | None]:
        """The template with that key for as long as the block lasts; None when there is none.

        One whose files somebody has touched is none, and removed.
        """
        row = await self._site.store.template(key)
        if row is None or not row.ready or key in self._leaving:
            yield None
            return

        if not untouched(row):
            self.drop(row, "its files are not what they were")
            yield None
            return

        self._users[key] += 1
        try:
            yield row
        finally:
            self._users[key] -= 1
            self._spawn(self._give_back(key))

    def drop(self, row: TemplateRow, why: str) -> None:
        """Give out that template no more, and remove it once nobody uses it."""
        if row.key not in self._leaving:
            log.warning("template %s is removed: %s", row.key, why)
            self._spawn(self.remove(row))

    async def remove(self, row: TemplateRow) -> None:
        """Remove a template with all it takes. VMs that were made of it go on."""
        if row.key in self._leaving:
            await self.gone(row.key)
            return

        self._leaving.add(row.key)
        try:
            async with self._returned:
                await self._returned.wait_for(lambda: not self._users[row.key])

            for follower in self._followers:
                await follower(row.key)

            await self.discard(row)
        finally:
            self._leaving.discard(row.key)
            async with self._returned:
                self._returned.notify_all()

    async def gone(self, key: str) -> None:
        """Wait until a template with that key, if it is about to go, has gone."""
        async with self._returned:
            await self._returned.wait_for(lambda: key not in self._leaving)

    async def discard(self, row: TemplateRow) -> None:
        """Remove a template, ready or not, that nobody uses; continued after a crash."""
        await self._site.store.save_template(msgspec.structs.replace(row, ready=False))
        await take_back(self._site, row)
        await self._site.store.delete_template(row.key)
        await self._sweep()

    async def make_room(self, limit: int) -> list[TemplateRow]:
        """Remove those used least recently until the others take no more than `limit` bytes.

        What is in use stays. Returns those removed.
        """
        rows = await self.ready()
        sizes = {row.key: await in_thread(allocated, row) for row in rows}
        removed = []
        for row in reversed(rows):
            if sum(sizes.values()) <= limit:
                break

            if not self._users[row.key]:
                log.info("template %s makes room for others", row.key)
                await self.remove(row)
                del sizes[row.key]
                removed.append(row)

        return removed

    async def _give_back(self, key: str) -> None:
        await self._site.store.use_template(key, time.time())
        async with self._returned:
            self._returned.notify_all()


def untouched(row: TemplateRow) -> bool:
    """Whether every file of the template looks as it did when it was made; reads no data.

    Reading half a GiB to be sure would take longer than a boot. What this does not show, a flipped
    bit on the disk, shows neither in an image that is in use.
    """
    try:
        return all(mark(Path(path)) == known for path, known in row.marks.items())
    except OSError:
        return False


def allocated(row: TemplateRow) -> int:
    """Bytes on disk that a template takes: its memory, and the layers of its disks. Blocks."""
    disks = (Path(row.disks.root.path), Path(row.disks.work.path))
    return allocated_bytes(Path(row.directory)) + sum(layers.allocated(disk) for disk in disks)
