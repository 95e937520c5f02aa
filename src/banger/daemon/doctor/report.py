"""All checks side by side, in the order they are worth reading."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

from banger.api.models import DoctorReport, Image
from banger.daemon.doctor import building, machine, programs, settings, state
from banger.daemon.doctor.findings import Look, look
from banger.host.paths import Paths
from banger.hypervisor.base import Hypervisor


class Doctor:
    """Examines the host of one banger installation.

    `images` tells which images there are, `vm_ids` which VMs the store knows.
    """

    def __init__(
        self,
        paths: Paths,
        hypervisor: Hypervisor,
        images: Callable[[], Awaitable[Sequence[Image]]],
        vm_ids: Callable[[], Awaitable[Collection[str]]],
    ) -> None:
        self._paths = paths
        self._hypervisor = hypervisor
        self._images = images
        self._vm_ids = vm_ids

    async def run_checks(self) -> DoctorReport:
        """Look at everything; never raises because of what it finds."""
        checks = self._checks()
        found = await asyncio.gather(*(look(name, check) for name, check in checks.items()))
        return DoctorReport(checks=tuple(found))

    def _checks(self) -> dict[str, Look]:
        paths, hypervisor = self._paths, self._hypervisor
        return {
            "host": machine.platform,
            "configuration": lambda: settings.configuration(paths.config_file),
            "directories": lambda: machine.directories(paths),
            "hypervisor": lambda: programs.hypervisor(hypervisor),
            "acceleration": lambda: programs.acceleration(hypervisor),
            "disk tools": programs.disk_tools,
            "ssh": programs.ssh,
            "initramfs": building.first_stage,
            "image building": building.image_building,
            "default image": lambda: state.default_image(paths.config_file, self._images),
            "memory": lambda: machine.memory(paths.config_file),
            "disk space": lambda: machine.disk_space(paths.state),
            "network": lambda: settings.network(paths.config_file),
            "leftovers": lambda: state.leftovers(paths, self._vm_ids),
        }
