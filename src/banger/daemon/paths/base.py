"""What a host path is to the rest of the daemon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from banger.daemon.vms.machine import AgentOf, Machine
from banger.daemon.vms.moments import Moments
from banger.daemon.vms.seams import Network
from banger.daemon.vms.steps import Step
from banger.hypervisor.base import Hypervisor
from banger.storage.base import Disks


async def nothing() -> None:
    """For a host path that holds nothing of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """A host path, opened; `Site` says what each field means.

    `close` is called when the daemon ends; VMs run on.
    """

    hypervisor: Hypervisor
    agent: AgentOf
    network: Network
    disks: Disks
    moments: Moments
    run_steps: tuple[Step[Machine], ...]
    seed_steps: tuple[Step[Machine], ...]
    name_steps: tuple[Step[Machine], ...]
    close: Callable[[], Awaitable[None]] = nothing
