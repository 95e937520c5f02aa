"""From a request for a VM to its making: from a template if there is one that will do."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from banger.api.errors import BangerError, ErrorCode
from banger.api.models import CreateVM, Image, VMSpec
from banger.daemon.operations import Progress
from banger.daemon.vms import leases
from banger.daemon.vms.admission import admit
from banger.daemon.vms.creation import Creation, NewVM
from banger.daemon.vms.machine import Origin, Site
from banger.daemon.vms.plan import resolve_spec
from banger.host.config import Defaults
from banger.host.process import ProcessRef
from banger.host.resources import check_disk

# Room that creating a VM needs on the state directory's file system before its disks grow.
CREATE_ROOM = 64 * 1024 * 1024

# What a template that is not what it should be makes a start from it fail with.
_SPOILED = frozenset(
    (
        ErrorCode.RESTORE_FAILED,
        ErrorCode.LAUNCH_FAILED,
        ErrorCode.GUEST_TIMEOUT,
        ErrorCode.AGENT_UNREACHABLE,
        ErrorCode.AGENT_REFUSED,
        ErrorCode.AGENT_FAILED,
        ErrorCode.AGENT_PROTOCOL,
        ErrorCode.STREAM_LOST,
        ErrorCode.STATE_CORRUPT,
    )
)


class Clone(NamedTuple):
    """The key of a template, and what a VM that is made of it begins as."""

    key: str
    origin: Origin


class TemplateSource(Protocol):
    """Guests that have booted already."""

    def clone_of(self, spec: VMSpec, image: Image) -> AbstractAsyncContextManager[Clone | None]:
        """What such a VM can begin as while the block lasts; None when it has to boot."""

    async def spoiled(self, key: str, why: str) -> None:
        """No VM can be made of that template."""

    def wanted(self, spec: VMSpec, image: Image) -> None:
        """Such a VM had to boot: the next one should not."""


class StandbySource(Protocol):
    """A VM that was made ahead."""

    async def take(self, new: NewVM, progress: Progress) -> bool:
        """Make it `new`; False when there is none that will do. Raises CallerError(name_taken)."""

    def wanted(self, new: NewVM, image: Image) -> None:
        """Such a VM was made: the next one is to stand by."""

    async def drop(self) -> bool:
        """Give it up for its memory; whether there was one."""


class Requests:
    """Carries out `vm.create`."""

    def __init__(
        self,
        site: Site,
        creation: Creation,
        templates: TemplateSource,
        standby: StandbySource,
        defaults: Defaults,
    ) -> None:
        self._site = site
        self._creation = creation
        self._templates = templates
        self._standby = standby
        self._defaults = defaults

    async def create(
        self, request: CreateVM, holder: ProcessRef | None, progress: Progress
    ) -> None:
        """Create, and start if asked to; what fails leaves nothing but a kept console log."""
        progress.stage("resolve")
        image = await self._site.images.resolve(request.image or self._defaults.image, progress)
        spec = resolve_spec(request, self._defaults, image)
        if request.start:
            # Without a hypervisor there is no use in making disks first.
            await self._site.hypervisor.capabilities()

        await self._admit(spec.memory)
        check_disk(self._site.paths.state, CREATE_ROOM)
        for port in spec.ports:
            leases.require_free(port)

        new = NewVM(
            name=request.name,
            spec=spec,
            image_id=image.id,
            kernel_id=image.kernel,
            holder=holder,
            start=request.start,
        )
        if request.cold or not request.start:
            await self._creation.make(new, progress)
        elif not await self._clone(new, image, progress):
            await self._creation.make(new, progress)
            self._templates.wanted(spec, image)

    async def _admit(self, memory: int) -> None:
        try:
            await admit(self._site, memory)
        except BangerError as error:
            if error.code is not ErrorCode.INSUFFICIENT_MEMORY or not await self._standby.drop():
                raise

            await admit(self._site, memory)

    async def _clone(self, new: NewVM, image: Image, progress: Progress) -> bool:
        """Make `new` of a template; False when there is none that will do."""
        async with self._templates.clone_of(new.spec, image) as clone:
            if clone is None:
                return False

            key, origin = clone
            try:
                cloned = dataclasses.replace(new, origin=origin, template=key)
                if not await self._standby.take(cloned, progress):
                    await self._creation.make(cloned, progress)
            except (BangerError, OSError) as error:
                if isinstance(error, BangerError) and error.code not in _SPOILED:
                    raise

                why = str(error)
            else:
                self._standby.wanted(cloned, image)
                return True

        progress.stage("template", f"not usable, booting instead: {why}")
        await self._templates.spoiled(key, why)
        return False
