"""All checks side by side, in the order they are worth reading."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

from banger.api.models import DoctorReport, Image
from banger.daemon.doctor import building, machine, programs, settings, state
from banger.daemon.doctor.findings import Look, look
from banger.host.paths import HostPath, Paths
from banger.hypervisor.base import Hypervisor


class Doctor:
    """Examines the host of one banger installation.

    `images` tells which images there are, `vm_ids` which VMs the store knows. `installed` are
    the checks of an installed host, which has those of the embedded path not.
    """

    def __init__(
        self,
        paths: Paths,
        hypervisor: Hypervisor,
        images: Callable[[], Awaitable[Sequence[Image]]],
        vm_ids: Callable[[], Awaitable[Collection[str]]],
        installed: Callable[[], dict[str, Look]] | None = None,
    ) -> None:
        self._paths = paths
        self._hypervisor = hypervisor
        self._images = images
        self._vm_ids = vm_ids
        self._installed = installed

    async def run_checks(self) -> DoctorReport:
        """Look at everything; never raises because of what it finds."""
        checks = self._checks()
        found = await asyncio.gather(*(look(name, check) for name, check in checks.items()))
        return DoctorReport(checks=tuple(found))

    def _checks(self) -> dict[str, Look]:
        if self._installed is None:
            return self._common(HostPath.EMBEDDED) | self._embedded() | self._stock()

        return self._common(HostPath.SYSTEM) | self._installed() | self._stock()

    def _common(self, host_path: HostPath) -> dict[str, Look]:
        paths = self._paths
        return {
            "host": lambda: machine.platform(host_path),
            "configuration": lambda: settings.configuration(paths.config_file),
            "directories": lambda: machine.directories(paths, host_path),
            "hypervisor": lambda: programs.hypervisor(self._hypervisor),
        }

    def _embedded(self) -> dict[str, Look]:
        config_file = self._paths.config_file
        return {
            "acceleration": lambda: programs.acceleration(self._hypervisor),
            "disk tools": programs.disk_tools,
            "network": lambda: settings.network(config_file),
            "image building": building.image_building,
        }

    def _stock(self) -> dict[str, Look]:
        paths = self._paths
        return {
            "ssh": programs.ssh,
            "initramfs": building.first_stage,
            "default image": lambda: state.default_image(paths.config_file, self._images),
            "memory": lambda: machine.memory(paths.config_file),
            "disk space": lambda: machine.disk_space(paths.state),
            "leftovers": lambda: state.leftovers(paths, self._vm_ids),
        }
