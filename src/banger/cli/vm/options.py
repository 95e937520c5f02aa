"""What `vm run` and `vm create` have in common: the options that describe a new VM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

import click

from banger.api.models import CreateVM, PortForward
from banger.api.names import check_name
from banger.api.sizes import parse_rate, parse_size
from banger.cli.params import complete_images, parse_forward

_F = TypeVar("_F", bound=Callable[..., Any])


class Wanted(TypedDict):
    """The values of the options below, as click passes them on."""

    name: str | None
    image: str | None
    vcpus: int | None
    memory: int | None
    disk_size: int | None
    root_size: int | None
    nat: bool
    allow: tuple[str, ...]
    ports: tuple[PortForward, ...]
    autostart: bool
    disk_rate: int
    net_rate: int
    cold: bool


def describes_vm(function: _F) -> _F:
    """Give a command the options of `Wanted`."""
    options = (
        click.option(
            "--name",
            type=check_name,
            metavar="NAME",
            help="Its name and host name; made up if not given.",
        ),
        click.option("--image", metavar="IMAGE", shell_complete=complete_images, help="Boot this."),
        click.option(
            "--vcpu", "vcpus", type=click.IntRange(1, 64), metavar="N", help="Virtual CPUs."
        ),
        click.option("--memory", type=parse_size, metavar="SIZE", help="Memory, like 2G."),
        click.option(
            "--disk-size",
            type=parse_size,
            metavar="SIZE",
            help="Size of the disk that is its /root.",
        ),
        click.option(
            "--root-size", type=parse_size, metavar="SIZE", help="Size of the disk that is its /."
        ),
        click.option("--nat", is_flag=True, help="Let it reach the internet through this host."),
        click.option(
            "--allow",
            metavar="CIDR",
            multiple=True,
            help="Let it reach this network, and no others (on an installed host).",
        ),
        click.option(
            "-p",
            "--publish",
            "ports",
            type=parse_forward,
            metavar="[IP:]HOST:GUEST[/udp]",
            multiple=True,
            help="Make a guest port reachable on the host (on 127.0.0.1 if no IP is given).",
        ),
        click.option(
            "--autostart",
            is_flag=True,
            help="Start it whenever the host boots (on an installed host).",
        ),
        click.option(
            "--disk-rate",
            type=parse_rate,
            default="0",
            metavar="RATE",
            help="Bytes a second each of its disks may move (on an installed host).",
        ),
        click.option(
            "--net-rate",
            type=parse_rate,
            default="0",
            metavar="RATE",
            help="Bytes a second it may send, and receive (on an installed host).",
        ),
        click.option("--cold", is_flag=True, help="Boot it, even if there is a template of it."),
    )
    for option in reversed(options):
        function = option(function)

    return function


def create_request(
    wanted: Wanted, *, start: bool = True, holder_pid: int | None = None
) -> CreateVM:
    """The request for the VM that is `wanted`."""
    return CreateVM(**wanted, start=start, holder_pid=holder_pid)
