"""`banger vm set`."""

from __future__ import annotations

import click
import msgspec

from banger.api.models import PortForward, UpdateVM
from banger.api.names import check_name
from banger.api.sizes import parse_rate, parse_size
from banger.cli.app import App, pass_app
from banger.cli.changes import Change, change_all
from banger.cli.params import complete_vms, option_json, option_quiet, parse_forward


@click.command("set")
@click.argument("vm", shell_complete=complete_vms)
@click.option("--name", type=check_name, metavar="NAME", help="Call it this.")
@click.option("--vcpu", "vcpus", type=click.IntRange(1, 64), metavar="N", help="Virtual CPUs.")
@click.option("--memory", type=parse_size, metavar="SIZE", help="Memory, like 2G.")
@click.option(
    "--disk-size",
    type=parse_size,
    metavar="SIZE",
    help="Grow the disk that is its /root to this size.",
)
@click.option("--nat/--no-nat", default=None, help="Whether it reaches the internet.")
@click.option(
    "--allow",
    metavar="CIDR",
    multiple=True,
    help="Let it reach these networks, and no others (on an installed host).",
)
@click.option(
    "--autostart/--no-autostart",
    default=None,
    help="Whether it is started when the host boots (on an installed host).",
)
@click.option(
    "--disk-rate",
    type=parse_rate,
    metavar="RATE",
    help="Bytes a second each of its disks may move (on an installed host); 0 for any.",
)
@click.option(
    "--net-rate",
    type=parse_rate,
    metavar="RATE",
    help="Bytes a second it may send, and receive (on an installed host); 0 for any.",
)
@click.option(
    "-p",
    "--publish",
    "ports",
    type=parse_forward,
    metavar="[IP:]HOST:GUEST[/udp]",
    multiple=True,
    help="Publish these ports, no others.",
)
@click.option("--no-ports", is_flag=True, help="Publish no ports.")
@option_quiet
@option_json
@pass_app
def set_vm(
    app: App,
    /,
    vm: str,
    ports: tuple[PortForward, ...],
    no_ports: bool,
    allow: tuple[str, ...],
    quiet: bool,
    **settings: object,
) -> int:
    """Change what a stopped VM is.

    \b
    Examples:
      banger vm set dev --memory 4G --vcpu 4
      banger vm set dev --disk-size 40G
      banger vm set dev -p 8080:80 -p 8443:443
      banger vm set dev --allow 192.0.2.0/24 --allow 198.51.100.7
    """
    if ports and no_ports:
        raise click.UsageError("-p and --no-ports exclude each other")

    changes = {name: value for name, value in settings.items() if value is not None}
    if ports or no_ports:
        changes["ports"] = ports

    if allow:
        changes["allow"] = allow

    if not changes:
        raise click.UsageError("nothing to change was given")

    request = msgspec.convert(changes, UpdateVM)
    change = Change(ask=lambda client, target: client.update_vm(target, request), done="changed")
    return change_all(app, [vm], change, quiet=quiet)
