"""A VM made ahead: a clone of the template used last, standing still until somebody wants one.

It has all that a VM has, an identity of its own among it, and has run a program, so that what an
emulator has to translate for that is translated. Whoever creates such a VM gets it, under the name
it is to have. Until then no user sees it, and nobody is refused anything because of it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import replace

from banger.api.errors import BangerError, CallerError
from banger.api.models import Image, VMState
from banger.channel.requests import Exec, Exited, Identity
from banger.daemon.operations import Progress, Unseen
from banger.daemon.store.rows import VMRow
from banger.daemon.templates.background import Lull
from banger.daemon.vms import lifecycle
from banger.daemon.vms.creation import Creation, NewVM
from banger.daemon.vms.machine import Locks, Machine, Site
from banger.daemon.vms.pausing import freeze, pause
from banger.daemon.vms.request import TemplateSource
from banger.daemon.vms.restore import ENTROPY_BYTES
from banger.daemon.vms.waking import assume
from banger.daemon.vms.watch import Watch

log = logging.getLogger(__name__)

# Nobody has wanted one for so long: it gives its memory back.
KEPT_SECONDS = 900.0

# Its clock may go on while it stands still, and it is not to go on by itself when it wakes.
FROZEN_SECONDS = 4 * KEPT_SECONDS

# Its guest has answered a moment ago.
ANSWER_SECONDS = 10.0


class Standby:
    """Keeps one VM ready, the kind that was made last."""

    def __init__(
        self,
        site: Site,
        locks: Locks,
        watch: Watch,
        creation: Creation,
        templates: TemplateSource,
        lull: Lull,
    ) -> None:
        self._site = site
        self._locks = locks
        self._watch = watch
        self._creation = creation
        self._templates = templates
        self._lull = lull
        self._row: VMRow | None = None
        self._wish: tuple[NewVM, Image] | None = None
        self._preparing = False
        self._task: asyncio.Task[None] | None = None

    async def take(self, new: NewVM, progress: Progress) -> bool:
        """Make the VM that stands by `new`; False when there is none that will do.

        Raises CallerError(name_taken).
        """
        row = self._row
        if row is None or (row.spec, row.template) != (new.spec, new.template):
            return False

        self._row = None
        async with self._locks.of(row.id):
            machine = Machine(self._site, row)
            try:
                await self._become(machine, new, progress)
            except (BangerError, OSError) as error:
                await self._discard(machine)
                if isinstance(error, CallerError):
                    raise

                log.warning("the VM that stood by is of no use: %s", error)
                return False
            except BaseException:
                await asyncio.shield(self._discard(machine))
                raise

        self._creation.made(machine)
        return True

    def wanted(self, new: NewVM, image: Image) -> None:
        """Such a VM was made: the next one is to stand by when nobody minds."""
        if not self._site.config.limits.standby or new.spec.ports:
            return

        self._wish = (new, image)
        if not self._preparing:
            self._preparing = True
            self._watch.spawn(self._prepare_when_calm())

    async def drop(self) -> bool:
        """Give up the VM that stands by; whether there was one."""
        row, self._row = self._row, None
        if row is None:
            return False

        async with self._locks.of(row.id):
            await self._discard(Machine(self._site, row))

        return True

    async def template_gone(self, key: str) -> None:
        """Give up the VM that stands by if it is of that template, whose disks it holds on to."""
        if self._row is not None and self._row.template == key:
            await self.drop()

    async def close(self) -> None:
        """Prepare no more, and leave none."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

        await self.drop()

    async def _become(self, machine: Machine, new: NewVM, progress: Progress) -> None:
        progress.stage("wake")
        now = time.time()
        if new.name is not None:
            await machine.record(durable=False, name=new.name)

        progress.set_target(machine.row.id, machine.row.name)
        await self._site.hypervisor.resume(machine.require_vmm())
        identity = Identity(entropy=secrets.token_hex(ENTROPY_BYTES), hostname=machine.row.name)
        await assume(machine.agent, identity, patience=ANSWER_SECONDS, timeout=ANSWER_SECONDS)
        await machine.record(
            durable=False,
            state=VMState.RUNNING,
            standby=False,
            holder=new.holder,
            created_at=now,
            started_at=now,
        )
        for step in self._site.name_steps:
            await step.do(machine)

    async def _prepare_when_calm(self) -> None:
        self._task = asyncio.current_task()
        try:
            while self._wish is not None:
                await self._lull.come(self._wish[0].spec.memory)
                wish, self._wish = self._wish, None
                await self._prepare(*wish)
        except (BangerError, OSError) as error:
            log.warning("no VM stands by: %s", error)
        finally:
            self._preparing = False

    async def _prepare(self, new: NewVM, image: Image) -> None:
        wanted = (new.spec, new.template)
        if self._row is not None and (self._row.spec, self._row.template) == wanted:
            return

        await self.drop()
        # The template does not go until the VM stands by: it is given up with it then.
        async with self._templates.clone_of(new.spec, image) as clone:
            if clone is None:
                return

            ahead = replace(
                new, name=None, holder=None, origin=clone.origin, template=clone.key, standby=True
            )
            row = await self._creation.make(ahead, Unseen())
            self._row = await self._stand_still(row)

        self._watch.later(KEPT_SECONDS, lambda: self._expire(row.id))

    async def _stand_still(self, row: VMRow) -> VMRow:
        machine = Machine(self._site, row)
        async with self._locks.of(row.id):
            try:
                await machine.agent.ask(Exec(argv=("true",)), Exited)
                await freeze(machine, seconds=FROZEN_SECONDS)
                await pause(machine)
            except BaseException:
                await asyncio.shield(self._discard(machine))
                raise

        return machine.row

    async def _expire(self, vm_id: str) -> None:
        if self._row is not None and self._row.id == vm_id:
            await self.drop()

    async def _discard(self, machine: Machine) -> None:
        await lifecycle.discard(machine)
        self._watch.forget(machine.row.id)
