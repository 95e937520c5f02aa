"""Templates for the API, and for those who make VMs."""

from __future__ import annotations

import builtins
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.models import (
    CreateVM,
    Image,
    MakeTemplate,
    Operation,
    PruneTemplates,
    Template,
    VMSpec,
)
from banger.daemon.operations import Operations, Progress
from banger.daemon.store.rows import TemplateRow
from banger.daemon.templates.background import Background, Lull
from banger.daemon.templates.key import Keys
from banger.daemon.templates.maker import Maker
from banger.daemon.templates.making import memory_of, origins_of
from banger.daemon.templates.shelf import Shelf, Spawn, Sweep, allocated
from banger.daemon.vms.machine import Origin, Site
from banger.daemon.vms.plan import resolve_spec
from banger.daemon.vms.request import Clone
from banger.host.config import Defaults
from banger.host.threads import in_thread


class Templates:
    """Implements the template part of the API; VMs are made of them, and have them made."""

    def __init__(
        self,
        site: Site,
        operations: Operations,
        defaults: Defaults,
        *,
        sweep: Sweep,
        spawn: Spawn,
        lull: Lull,
    ) -> None:
        self._site = site
        self._operations = operations
        self._defaults = defaults
        self._spawn = spawn
        self._keys = Keys(site)
        self._shelf = Shelf(site, sweep, spawn)
        self._maker = Maker(site, self._shelf, self._keys)
        self._background = Background(self._maker, self._keys, lull)

    def follow(self, follower: Callable[[str], Awaitable[None]]) -> None:
        """Have `follower` called with the key of each template that goes, before it does."""
        self._shelf.follow(follower)

    async def reconcile(self) -> None:
        """At daemon start: remove, in the background, what the last daemon did not finish."""
        for row in await self._site.store.templates():
            if not row.ready:
                self._spawn(self._shelf.remove(row))

    async def list(self) -> list[Template]:
        rows = await self._site.store.vms()
        clones = Counter(row.template for row in rows if not row.standby)
        return [await _shown(row, clones[row.key]) for row in await self._shelf.ready()]

    async def make(self, request: MakeTemplate) -> Operation:
        """Make the template such VMs would start from, unless it is there.

        Raises PermanentError(insufficient_disk) when templates are switched off.
        """
        self._require_on()

        async def body(progress: Progress) -> None:
            progress.stage("resolve")
            name = request.image or self._defaults.image
            image = await self._site.images.resolve(name, progress)
            row = await self._maker.make(self._spec(request, image), image, progress.stage)
            progress.set_target(row.key, image.name)

        return await self._operations.start(
            "template.make", body, target=None, target_name=request.image
        )

    async def delete(self, key: str) -> Operation:
        """Delete a template, once no VM is being made of it. Raises CallerError."""
        row = await self._site.store.template(key)
        if row is None or not row.ready:
            raise CallerError(
                ErrorCode.UNKNOWN_TEMPLATE,
                f"there is no template {key!r}",
                hint="see what there is: banger template list",
            )

        async def body(progress: Progress) -> None:
            progress.stage("delete")
            await self._shelf.remove(row)

        return await self._operations.start(
            "template.delete", body, target=key, target_name=row.spec.image
        )

    async def prune(self, request: PruneTemplates) -> Operation:
        """Delete all templates, or those that no new VM would start from."""

        async def body(progress: Progress) -> None:
            progress.stage("look")
            rows = await self._shelf.ready()
            for row in rows if request.all else await self._stale():
                progress.stage("delete", row.key)
                await self._shelf.remove(row)

        return await self._operations.start("template.prune", body, target=None, target_name=None)

    async def tidy(self) -> None:
        """Remove what no new VM would start from, and what is more than may be kept."""
        for row in await self._stale():
            await self._shelf.remove(row)

        await self._shelf.make_room(self._limit)

    @contextlib.asynccontextmanager
    async def clone_of(self, spec: VMSpec, image: Image) -> AsyncIterator[Clone | None]:
        """What a VM of that image and shape can begin as; None when it has to boot.

        It is there for as long as the block lasts.
        """
        if not self._limit:
            yield None
            return

        key = await self._keys.of(spec, image.id, image.kernel)
        async with self._shelf.take(key) as row:
            yield None if row is None else Clone(key, self._origin(row))

    async def spoiled(self, key: str, why: str) -> None:
        """A VM could not be made of that template: it is removed, in the background."""
        row = await self._site.store.template(key)
        if row is not None and row.ready:
            self._shelf.drop(row, why)

    def wanted(self, spec: VMSpec, image: Image) -> None:
        """A VM of that image and shape had to boot: make the template in the background."""
        if self._limit:
            self._spawn(self._background.make(spec, image))

    async def images_changed(self, built: Image | None) -> None:
        """Remove what no new VM would start from, and have the first of a new image start at once.

        Nobody waits for the latter.
        """
        await self.tidy()
        if built is not None:
            self.wanted(self._spec(MakeTemplate(), built), built)

    @property
    def _limit(self) -> int:
        return self._site.config.limits.templates_size

    def _require_on(self) -> None:
        if not self._limit:
            raise PermanentError(
                ErrorCode.INSUFFICIENT_DISK,
                "templates may take no room on the disk: limits.templates_size is 0",
                hint=f"raise it in config.toml, then: {self._site.host_path.renewal}",
            )

    def _spec(self, request: MakeTemplate, image: Image) -> VMSpec:
        wanted = CreateVM(
            vcpus=request.vcpus,
            memory=request.memory,
            root_size=request.root_size,
            disk_size=request.disk_size,
        )
        return resolve_spec(wanted, self._defaults, image)

    def _origin(self, row: TemplateRow) -> Origin:
        root, work = origins_of(self._site, row)
        return Origin(root=root, work=work, memory=memory_of(row), aligned=None)

    async def _stale(self) -> builtins.list[TemplateRow]:
        named = {image.id for image in await self._site.images.list()}
        return [
            row
            for row in await self._shelf.ready()
            if row.image_id not in named or await self._key_now(row) != row.key
        ]

    async def _key_now(self, row: TemplateRow) -> str | None:
        try:
            return await self._keys.of(row.spec, row.image_id, row.kernel_id)
        except CallerError:
            # Its kernel is gone.
            return None


async def _shown(row: TemplateRow, clones: int) -> Template:
    return Template(
        key=row.key,
        image=row.spec.image,
        image_id=row.image_id,
        kernel_id=row.kernel_id,
        vcpus=row.spec.vcpus,
        memory=row.spec.memory,
        root_size=row.spec.root_size,
        disk_size=row.spec.disk_size,
        created_at=row.created_at,
        used_at=row.used_at,
        clones=clones,
        allocated_bytes=await in_thread(allocated, row),
    )
