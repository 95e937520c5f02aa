"""One template at a time: made if it is not there, and nothing left of it if that fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec

from banger.api.errors import ErrorCode, PermanentError
from banger.api.models import Image, VMSpec
from banger.api.sizes import MIB, format_size
from banger.daemon.store.rows import DiskFile, Layers, TemplateRow
from banger.daemon.templates.key import Keys
from banger.daemon.templates.making import Seed, make_steps, mark, needed
from banger.daemon.templates.shelf import Shelf
from banger.daemon.vms.machine import Site
from banger.daemon.vms.steps import forward
from banger.host.resources import check_disk
from banger.host.threads import in_thread
from banger.storage.layers import layer_path

# What a guest that has just booted holds, at most, and twice: as a stream and as memory.
ROOM = 2 * 512 * MIB

Announce = Callable[[str], None]


class Maker:
    """Makes templates; who asks for one that is being made gets that."""

    def __init__(self, site: Site, shelf: Shelf, keys: Keys) -> None:
        self._site = site
        self._shelf = shelf
        self._keys = keys
        self._turn = asyncio.Lock()

    async def make(
        self, spec: VMSpec, image: Image, announce: Announce, *, background: bool = False
    ) -> TemplateRow:
        """The template of that image and shape, when it is ready.

        In the `background` it takes only the time nobody else wants.

        Raises PermanentError(insufficient_disk) when it would take more than all templates may,
        and what booting and saving a VM raises.
        """
        limit = self._site.config.limits.templates_size
        if self._turn.locked():
            announce("waiting for another template")

        async with self._turn:
            # Not before: what goes into it may have changed meanwhile.
            key = await self._keys.of(spec, image.id, image.kernel)
            await self._shelf.gone(key)
            present = await self._site.store.template(key)
            if present is not None and present.ready:
                return present

            check_disk(self._site.paths.state, min(ROOM, 2 * spec.memory))
            self._site.moments.check_room(self._site.paths.state, spec.memory)
            row = new_row(self._site, key, spec, image)
            seed = Seed(self._site, row, background=background)
            made = await self._make(seed, announce)
            if made in await self._shelf.make_room(limit):
                raise _too_large(limit)

            return made

    async def _make(self, seed: Seed, announce: Announce) -> TemplateRow:
        row = seed.template
        await self._site.store.save_template(row)
        try:
            steps = make_steps(self._site)
            await forward("template", steps, seed, announce=announce, hook=self._site.hook)
            files = needed(self._site, row)
            marks = {str(path): await in_thread(mark, path) for path in files}
            ready = msgspec.structs.replace(row, marks=marks, used_at=time.time(), ready=True)
            await self._site.store.save_template(ready)
        except BaseException:
            await asyncio.shield(self._shelf.discard(row))
            raise

        return ready


def new_row(site: Site, key: str, spec: VMSpec, image: Image) -> TemplateRow:
    """The row of a template of which nothing is there yet, with all that it will own."""
    paths, form, now = site.paths, site.disks.format, time.time()
    return TemplateRow(
        key=key,
        image_id=image.id,
        kernel_id=image.kernel,
        spec=_of_nobody(spec),
        disks=Layers(
            root=DiskFile(path=str(layer_path(paths.disks, form)), format=form),
            work=DiskFile(path=str(layer_path(paths.disks, "raw")), format="raw"),
        ),
        directory=str(paths.templates / key),
        run_dir=str(paths.template_run / key),
        created_at=now,
        used_at=now,
    )


def _too_large(limit: int) -> PermanentError:
    return PermanentError(
        ErrorCode.INSUFFICIENT_DISK,
        f"a template of this image and shape takes more than the {format_size(limit)} that all"
        " templates may take",
        hint="raise limits.templates_size in config.toml",
    )


def _of_nobody(spec: VMSpec) -> VMSpec:
    """`spec` without what concerns one VM alone."""
    return msgspec.structs.replace(
        spec, nat=False, allow=(), ports=(), autostart=False, disk_rate=0, net_rate=0
    )
