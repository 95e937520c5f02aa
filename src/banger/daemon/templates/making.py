"""Making a template: boot a VM that nobody uses, by the steps of every VM, and keep its moment."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Unpack

import msgspec

from banger.api.errors import ErrorCode, PermanentError
from banger.api.models import VMState
from banger.channel.requests import Done, Exec, Exited, Freeze, GuestHealth, Health, Sync
from banger.channel.serial import RESERVED
from banger.daemon.store.rows import FileMark, Handles, TemplateRow, VMRow
from banger.daemon.vms.create import CREATE_STEPS
from banger.daemon.vms.machine import Agent, Machine, RowChanges, Site
from banger.daemon.vms.plan import guest_config, launch_plan
from banger.daemon.vms.restore import ENTROPY_BYTES
from banger.daemon.vms.start import TERMINATE_SECONDS, Ready
from banger.daemon.vms.steps import Step, backward
from banger.daemon.vms.waking import assume
from banger.guest.identity import identity_of
from banger.host.files import remove_tree, sync
from banger.host.threads import in_thread
from banger.hypervisor.base import LaunchPlan, MemoryImage, UserNic

# What clones replace before anything else runs in them.
HOSTNAME = "template"

# With what processor time is left over, on a host that is busy, a boot may take this long.
SETTLE_SECONDS = 900.0
_PAUSE_SECONDS = 0.5

# A clone's agent thaws its processes; a guest that thawed by itself would run under a false name.
FREEZE_SECONDS = 3600.0

# Python makes what it has run this often faster, which shows where the processor is emulated.
REHEARSALS = 8

_TRUE = Exec(argv=("true",))

# What `systemctl is-system-running` does not wait for: loading the modules for devices found late,
# which would go on in every clone.
_DEVICES = Exec(argv=("udevadm", "settle", "--timeout=300"))

# A login, too. And where systemd holds sshd's port nobody needs an sshd before somebody connects:
# clones would have to end the one there is, because of its host key.
_REST = Exec(
    argv=(
        "sh",
        "-lc",
        "! systemctl -q is-active banger-ssh.socket || systemctl stop ssh.service",
    )
)


class Seed(Machine):
    """The VM a template is made of. No user's: the template's row is all that tells of it.

    In the `background` it takes nobody's time.
    """

    def __init__(self, site: Site, template: TemplateRow, *, background: bool = False) -> None:
        super().__init__(site, _row(site, template))
        self.template = template
        self.background = background

    async def record(self, *, durable: bool = True, **changes: Unpack[RowChanges]) -> None:
        """Replace fields of the row: in memory, as everything it owns follows from the template."""
        del durable
        self.row = msgspec.structs.replace(self.row, **changes)

    @property
    def stream(self) -> Path:
        return self.vm_dir / "stream"

    async def plan(self) -> LaunchPlan:
        """As for any VM, but nothing on the host leads to it."""
        kernel = await self.site.images.kernel_files(self.row.kernel_id)
        emulated = (await self.site.hypervisor.capabilities()).accelerator == "tcg"
        plan = launch_plan(self, kernel, emulated=emulated)
        nic = plan.nic
        if isinstance(nic, UserNic):
            nic = msgspec.structs.replace(nic, forwards=())

        return msgspec.structs.replace(plan, nic=nic, background=self.background)


def memory_of(template: TemplateRow) -> MemoryImage:
    """Where the template's memory is."""
    return MemoryImage(directory=Path(template.directory) / "memory")


def origins_of(site: Site, template: TemplateRow) -> tuple[Path, Path]:
    """What the root and the work disk of clones are made of."""
    return site.moments.origins(template.disks, Path(template.directory))


def needed(site: Site, template: TemplateRow) -> tuple[Path, ...]:
    """Every file that a clone reads, each once."""
    memory, disks = memory_of(template), template.disks
    files = (Path(disks.root.path), Path(disks.work.path))
    return (memory.memory, memory.state, *dict.fromkeys((*origins_of(site, template), *files)))


def mark(path: Path) -> FileMark:
    """What tells whether anybody has touched `path` since. Raises OSError."""
    info = path.stat()
    return FileMark(size=info.st_size, mtime_ns=info.st_mtime_ns, inode=info.st_ino)


class Boot:
    """The VMM."""

    name = "launch"

    async def do(self, seed: Seed) -> None:
        handle = await seed.site.hypervisor.launch(await seed.plan())
        await seed.record_handles(vmm=handle)

    async def undo(self, seed: Seed) -> None:
        hypervisor = seed.site.hypervisor
        handle = await hypervisor.find(seed.run_dir)
        if handle is not None and hypervisor.alive(handle):
            await hypervisor.terminate(handle, TERMINATE_SECONDS)


class Settle:
    """Waiting until nothing of the boot is left to be done, and then for silence."""

    name = "settle"

    async def do(self, seed: Seed) -> None:
        agent = seed.agent
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await _booted_whole(agent)
        except TimeoutError:
            raise PermanentError(
                ErrorCode.GUEST_TIMEOUT, f"the guest was not up after {SETTLE_SECONDS:.0f} s"
            ) from None

        await agent.ask(_DEVICES, Exited, timeout=SETTLE_SECONDS)
        await _rehearse(seed)
        await agent.ask(_REST, Exited, timeout=SETTLE_SECONDS)
        await _put_streams_in_order(agent)
        await agent.ask(Sync(), Done, timeout=SETTLE_SECONDS)
        await agent.ask(Freeze(processes=True, timeout=FREEZE_SECONDS), Done)

    async def undo(self, seed: Seed) -> None:
        """Nothing: the guest's state goes with the VMM."""


class Save:
    """The guest's memory as a stream, and its disks as they are: its VMM is of no use any more."""

    name = "save"

    async def do(self, seed: Seed) -> None:
        hypervisor, handle = seed.site.hypervisor, seed.require_vmm()
        if not seed.agent.aligned():
            raise PermanentError(ErrorCode.SAVE_FAILED, "a stream into the guest was cut short")

        await hypervisor.save(handle, seed.stream, (), resume=False)
        await hypervisor.terminate(handle, TERMINATE_SECONDS)
        # With that all it has written gets into the files of its disks.
        await backward(seed.site.seed_steps, seed)

    async def undo(self, seed: Seed) -> None:
        """Nothing: the stream lies in the directory of the guest."""


class Convert:
    """From the stream to memory that clones map."""

    name = "convert"

    async def do(self, seed: Seed) -> None:
        await seed.site.hypervisor.convert(seed.stream, memory_of(seed.template))

    async def undo(self, seed: Seed) -> None:
        await in_thread(remove_tree, memory_of(seed.template).directory)


class Disks:
    """What clones' disks are made of: prepared once, so that no clone waits for a program."""

    name = "disks"

    async def do(self, seed: Seed) -> None:
        await seed.site.moments.shelve(seed.template.disks, Path(seed.template.directory))

    async def undo(self, seed: Seed) -> None:
        for file in origins_of(seed.site, seed.template):
            file.unlink(missing_ok=True)


class Durable:
    """All of it on the disk before any row says that it is there, and nothing else left."""

    name = "sync"

    async def do(self, seed: Seed) -> None:
        await in_thread(_clear, seed.vm_dir, seed.run_dir)
        await in_thread(_sync_all, seed.template, needed(seed.site, seed.template))

    async def undo(self, seed: Seed) -> None:
        """Nothing was made."""


_SAVE_STEPS: tuple[Step[Seed], ...] = (
    Boot(),
    Ready(),
    Settle(),
    Save(),
    Convert(),
    Disks(),
    Durable(),
)


def make_steps(site: Site) -> tuple[Step[Seed], ...]:
    """From a template's row to all that is said there."""
    return (*CREATE_STEPS, *site.seed_steps, *_SAVE_STEPS)


async def take_back(site: Site, template: TemplateRow) -> None:
    """Remove what there is of a template, but for its row and its disks' layers.

    Those others may have come to need; a sweep finds what nobody does.
    """
    seed = Seed(site, template)
    await Boot().undo(seed)
    await backward(site.seed_steps, seed)
    await in_thread(_clear, seed.run_dir, Path(template.directory))


async def _booted_whole(agent: Agent) -> None:
    while True:
        health = await agent.ask(Health(system=True), GuestHealth, timeout=SETTLE_SECONDS)
        if health.system in ("running", "degraded"):
            return

        await asyncio.sleep(_PAUSE_SECONDS)


async def _put_streams_in_order(agent: Agent) -> None:
    """Use all that were used: a greeting given up during a slow boot has left one cut short."""
    health = (agent.ask(Health(), GuestHealth, timeout=SETTLE_SECONDS) for _ in range(RESERVED))
    await asyncio.gather(*health)


async def _rehearse(seed: Seed) -> None:
    """Do what every clone does first: become another guest, and run a program.

    So what that reads from the disk, imports and allocates is in the memory of all clones.
    """
    site, agent = seed.site, seed.agent
    image = await site.images.by_id(seed.row.image_id)
    config = guest_config(seed, image.image, await site.client_key.public())
    for number in range(REHEARSALS):
        config = msgspec.structs.replace(
            config,
            vm_id=f"{seed.row.id} {number}",
            hostname=f"{HOSTNAME}-{number}",
            address=site.network.pick_address((config.address,)),
            dns=() if config.dns else (site.network.dns,),
        )
        entropy = secrets.token_bytes(ENTROPY_BYTES)
        identity = identity_of(config, entropy=entropy)
        await assume(agent, identity, patience=SETTLE_SECONDS, timeout=SETTLE_SECONDS)
        await agent.ask(_TRUE, Exited, timeout=SETTLE_SECONDS)


def _clear(*directories: Path) -> None:
    for directory in directories:
        remove_tree(directory)


def _sync_all(template: TemplateRow, files: tuple[Path, ...]) -> None:
    for path in files:
        sync(path)

    for directory in {path.parent for path in files} | {Path(template.directory)}:
        sync(directory)


def _row(site: Site, template: TemplateRow) -> VMRow:
    address = site.network.pick_address(())
    return VMRow(
        id=template.key,
        name=HOSTNAME,
        state=VMState.STARTING,
        spec=template.spec,
        image_id=template.image_id,
        kernel_id=template.kernel_id,
        handles=Handles(
            vm_dir=str(Path(template.directory) / "guest"),
            run_dir=template.run_dir,
            address=address,
            mac=site.network.mac(template.key, address),
            ssh_port=0,
            disks=template.disks,
        ),
        created_at=template.created_at,
        updated_at=template.created_at,
    )
