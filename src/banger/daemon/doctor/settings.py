"""What the configuration says, and whether its network suits the host's."""

from __future__ import annotations

from pathlib import Path

from banger.api.models import Check
from banger.api.sizes import format_size
from banger.daemon.doctor.findings import passed, warned
from banger.host.config import Defaults, load_config, resolve_defaults
from banger.network.usermode import colliding_routes


async def configuration(file: Path) -> Check:
    """The file is valid; what new VMs get by default, and why. Raises CallerError(config_invalid).

    The file as it is now, which may be newer than the daemon.
    """
    defaults = resolve_defaults(load_config(file))
    return passed("configuration", _origin(file), *_explain(defaults))


async def network(file: Path) -> Check:
    """No network the host can reach is hidden from guests by their own."""
    settings = load_config(file).network
    collisions = colliding_routes(settings.subnet)
    if collisions:
        return warned(
            "network",
            f"the guests' network {settings.subnet} overlaps {', '.join(collisions)}: "
            "guests with --nat cannot reach that",
            f"set network.subnet in {file} to one that nothing here uses",
        )

    ports = settings.ssh_ports
    return passed(
        "network",
        f"guests are on {settings.subnet}, which no route of the host overlaps",
        f"their ssh servers are on 127.0.0.1, ports {ports[0]} to {ports[-1]}",
    )


def _origin(file: Path) -> str:
    return f"{file} is valid" if file.exists() else f"there is no {file}: built-in defaults"


def _explain(defaults: Defaults) -> list[str]:
    values = {
        "image": defaults.image,
        "vcpus": str(defaults.vcpus),
        "memory": format_size(defaults.memory),
        "disk_size": format_size(defaults.disk_size),
        "root_size": format_size(defaults.root_size),
    }
    return [
        f"default {field}: {value} ({defaults.sources[field]})" for field, value in values.items()
    ]
