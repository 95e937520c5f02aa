"""`banger vm show`."""

from __future__ import annotations

import click

from banger.api.errors import CallerError
from banger.api.models import VM, PortForward, VMSpec
from banger.api.sizes import format_size
from banger.cli.app import App, pass_app
from banger.cli.params import complete_vms, option_json
from banger.cli.render.console import out, out_json
from banger.cli.render.table import fields, moment
from banger.client.client import Client


@click.command("show")
@click.argument("vm", shell_complete=complete_vms)
@option_json
@pass_app
def show_vm(app: App, vm: str) -> None:
    """Show everything about one VM.

    \b
    Examples:
      banger vm show dev
      banger vm show dev --json
    """
    client = app.connect()
    found = client.vm(vm)
    if app.json:
        out_json(found)
    else:
        out(fields(_describe(found, _parent(client, found))))


def _parent(client: Client, vm: VM) -> str | None:
    if vm.parent is None:
        return None

    try:
        return f"{client.vm(vm.parent).name} ({vm.parent})"
    except CallerError:
        return f"{vm.parent} (deleted)"


def _describe(vm: VM, parent: str | None) -> list[tuple[str, str]]:
    spec = vm.spec
    pairs = [
        ("name", vm.name),
        ("id", vm.id),
        ("state", f"{vm.state} ({vm.reason})" if vm.reason else vm.state),
        ("image", f"{spec.image} ({vm.image_id})"),
        ("vcpus", str(spec.vcpus)),
        ("memory", format_size(spec.memory)),
        ("root disk", format_size(spec.root_size)),
        ("work disk", format_size(spec.disk_size)),
        ("on host", "-" if vm.allocated_bytes is None else format_size(vm.allocated_bytes)),
        ("address", vm.address or "-"),
        ("ssh", f"{vm.ssh_host}:{vm.ssh_port}" if vm.ssh_port else "-"),
        ("ports", ", ".join(map(_forward, spec.ports)) or "-"),
        ("internet", _internet(spec)),
        ("created", moment(vm.created_at)),
        ("started", moment(vm.started_at)),
    ]
    optional = (
        ("host name", vm.hostname),
        ("autostart", "yes" if spec.autostart else None),
        ("disk rate", _rate(spec.disk_rate)),
        ("net rate", _rate(spec.net_rate)),
        ("accelerator", vm.accelerator),
        ("pid", vm.pid),
        ("boot id", vm.boot_id),
        ("held by", vm.holder_pid),
        ("operation", vm.operation),
        ("template", vm.template),
        ("fork of", parent),
    )
    return pairs + [(name, str(value)) for name, value in optional if value is not None]


def _rate(rate: int) -> str | None:
    return f"{format_size(rate)}/s" if rate else None


def _internet(spec: VMSpec) -> str:
    return ", ".join(spec.allow) or ("yes" if spec.nat else "no")


def _forward(port: PortForward) -> str:
    return f"{port.host_ip}:{port.host_port}->{port.guest_port}/{port.protocol}"
