"""Templates nobody has asked for, made while nobody waits for anything."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from banger.api.errors import BangerError, ErrorCode
from banger.api.models import Image, VMSpec
from banger.api.sizes import GIB
from banger.daemon.operations import Operations
from banger.daemon.templates.key import Keys
from banger.daemon.templates.maker import Maker
from banger.daemon.vms.admission import admit
from banger.daemon.vms.machine import Site

log = logging.getLogger(__name__)

# After an operation there may come the command for which it was done, and another operation.
GRACE_SECONDS = 1.0

# How long to wait for memory, one time after the other, before giving up until it is wanted again.
MEMORY_PAUSES = (15.0, 60.0, 240.0)

# What cannot be made is not tried for ever: booting over and over would warm the host for nothing.
TRIES = 3


class Lull:
    """A moment in which nobody waits for anything, and there is memory to spare."""

    def __init__(self, site: Site, operations: Operations, grace: float = GRACE_SECONDS) -> None:
        self._site = site
        self._operations = operations
        self._grace = grace

    async def come(self, memory: int) -> None:
        """Return when a VM of `memory` bytes can be started without anybody noticing.

        Raises BangerError(insufficient_memory) when that has not come true for minutes.
        """
        for pause in MEMORY_PAUSES:
            await self._calm()
            if await self._room_for(memory):
                return

            await asyncio.sleep(pause)

        await self._calm()
        await self._admit(memory)

    async def _calm(self) -> None:
        while True:
            await self._operations.quiet()
            await asyncio.sleep(self._grace)
            if not self._operations.running():
                return

    async def _room_for(self, memory: int) -> bool:
        try:
            await self._admit(memory)
        except BangerError as error:
            if error.code is not ErrorCode.INSUFFICIENT_MEMORY:
                raise

            return False

        return True

    async def _admit(self, memory: int) -> None:
        # A user's VM that is started meanwhile is to find room as well.
        await admit(self._site, memory + min(memory, GIB))


class Background:
    """Makes what is wanted, each template once, when nobody minds."""

    def __init__(self, maker: Maker, keys: Keys, lull: Lull) -> None:
        self._maker = maker
        self._keys = keys
        self._lull = lull
        self._wanted: set[str] = set()
        self._failures: Counter[str] = Counter()

    async def make(self, spec: VMSpec, image: Image) -> None:
        """Have the template for such VMs, sooner or later; what fails is logged."""
        key = await self._keys.of(spec, image.id, image.kernel)
        if key in self._wanted or self._failures[key] >= TRIES:
            return

        self._wanted.add(key)
        try:
            await self._lull.come(spec.memory)
            log.info("template %s: begins", key)
            await self._maker.make(spec, image, _note, background=True)
            log.info("template %s: ready", key)
        except (BangerError, OSError) as error:
            self._failures[key] += 1
            log.warning("template %s could not be made: %s", key, error)
        finally:
            self._wanted.discard(key)


def _note(stage: str) -> None:
    log.debug("template: %s", stage)
