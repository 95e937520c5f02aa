"""`banger vm ports`."""

from __future__ import annotations

import click

from banger.api.models import VM
from banger.cli.agent import calls_to
from banger.cli.app import App, pass_app
from banger.cli.params import complete_vms, option_json
from banger.cli.render.console import out, out_json
from banger.cli.render.table import table

_HEAD = ("PROTOCOL", "ADDRESS", "PORT", "PROCESS", "REACHED AT")
_SSH = 22


@click.command("ports")
@click.argument("vm", shell_complete=complete_vms)
@option_json
@pass_app
def ports(app: App, vm: str) -> None:
    """Show what listens in a VM, and where it is reached from here.

    \b
    Examples:
      banger vm ports dev
      banger vm ports dev --json
    """
    client = app.connect()
    found = client.vm(vm)
    from banger.channel.requests import Listener, Listeners, Ports, printable

    def endpoint(listener: Listener) -> str | None:
        # What listens on the guest's loopback alone hears nothing from outside.
        if listener.address.startswith("127.") or listener.address == "::1":
            return None

        return _endpoint(found, listener.protocol, listener.port)

    listeners = calls_to(client, found.id).ask(Ports(), Listeners).ports
    if app.json:
        out_json([{**_fields(one), "endpoint": endpoint(one)} for one in listeners])
        return

    rows = [
        (
            one.protocol,
            one.address,
            str(one.port),
            printable(one.process or "-", 40),
            endpoint(one) or "-",
        )
        for one in listeners
    ]
    out(table(_HEAD, rows))


def _fields(listener: object) -> dict[str, object]:
    import msgspec

    return dict(msgspec.to_builtins(listener))


def _endpoint(vm: VM, protocol: str, port: int) -> str | None:
    for forward in vm.spec.ports:
        if (forward.protocol, forward.guest_port) == (protocol, port):
            return f"{forward.host_ip}:{forward.host_port}"

    if vm.hostname is not None:
        return f"{vm.hostname}:{port}"

    return f"{vm.ssh_host}:{vm.ssh_port}" if (protocol, port) == ("tcp", _SSH) else None
