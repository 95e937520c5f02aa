"""What disks are at one moment: kept for snapshots, forks and templates, and gone on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from banger.daemon.store.rows import Layers

if TYPE_CHECKING:
    from banger.daemon.vms.machine import Machine


@dataclass(frozen=True, slots=True)
class Taking:
    """A moment of a VM's disks that is to be taken, everything named before anything is made.

    `kept` is what the disks are in that moment, immutable from then on; `upcoming` what the VM goes
    over to then, None where it stays with its own.
    """

    kept: Layers
    upcoming: Layers | None


class Moments(Protocol):
    """How a host path keeps moments of disks. Raises PermanentError(insufficient_disk) throughout.

    Files are named first, in a row, and made afterwards; whoever fails leaves them to `settle`, or
    to a sweep.
    """

    def check_room(self, state: Path, memory: int) -> None:
        """Refuse a moment for which there is no room in `state`, of a guest with that memory.

        0 is one that does not run.
        """

    def fresh(self, directory: Path) -> Layers:
        """Names in `directory` for the disks of a VM that goes on from a moment: of no file yet."""

    async def plan(self, machine: Machine) -> Taking:
        """How a moment of that VM, which is stopped or running, will be taken."""

    async def prepare(self, machine: Machine, taking: Taking, directory: Path) -> None:
        """Do what can be done before the guest stands still; `directory` is the snapshot's own."""

    async def save(self, machine: Machine, taking: Taking, stream: Path) -> None:
        """Write a running guest's memory to `stream` and keep its disks of that same moment.

        The guest goes on afterwards, whatever happens. Also raises what `Hypervisor.save` does.
        """

    async def keep(self, taking: Taking, machine: Machine) -> None:
        """Keep the disks of a VM that is stopped."""

    async def shelve(self, disks: Layers, directory: Path) -> None:
        """Make what clones of `disks`, to which nobody writes any more, are to begin with."""

    def origins(self, disks: Layers, directory: Path) -> tuple[Path, Path]:
        """The files that `clone` makes the root and the work disk of a clone of `disks` from."""

    async def clone(self, origin: Path, disk: Path) -> None:
        """Make `disk`, of which a name exists, of what `origins` named. Not durable."""

    def awakened(self, disks: Layers, directory: Path) -> Layers:
        """Which disks a suspended VM goes on with that has `disks`: fresh names, or the same."""

    async def renew(self, below: Layers, disks: Layers) -> None:
        """Make `disks`, which hold what `below` does; that is not written any more."""
