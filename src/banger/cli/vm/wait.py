"""`banger vm wait`."""

from __future__ import annotations

import time
from collections.abc import Collection

import click

from banger.api.errors import ErrorCode, TransientError
from banger.api.models import VMState
from banger.cli.agent import calls_to
from banger.cli.app import App, pass_app
from banger.cli.params import complete_vms
from banger.client.client import Client

_POLL_SECONDS = 0.2
_COMING = {VMState.CREATING, VMState.STARTING}


@click.command("wait")
@click.argument("vm", shell_complete=complete_vms)
@click.option(
    "--for",
    "event",
    type=click.Choice(("ready", "boot", "stopped")),
    default="ready",
    show_default=True,
    help="Commands can run; all services are started; it has ended.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up then.",
)
@pass_app
def wait(app: App, vm: str, event: str, timeout: float) -> None:
    """Wait until a VM has come so far.

    \b
    Examples:
      banger vm start dev && banger vm wait dev --for boot
      banger vm wait dev --for stopped --timeout 60
    """
    client = app.connect()
    vm_id = client.vm(vm).id
    deadline = time.monotonic() + timeout
    if event == "stopped":
        _until(client, vm_id, deadline, {VMState.STOPPED})
        return

    _until(client, vm_id, deadline, set(VMState) - _COMING)
    _ask(client, vm_id, deadline, event)


def _until(client: Client, vm_id: str, deadline: float, states: Collection[VMState]) -> None:
    while client.vm(vm_id).state not in states:
        if time.monotonic() > deadline:
            raise _too_long(client.vm(vm_id).name)

        time.sleep(_POLL_SECONDS)


def _ask(client: Client, vm_id: str, deadline: float, event: str) -> None:
    from banger.channel.requests import Exec, Exited, GuestHealth, Health

    left = max(0.1, deadline - time.monotonic())
    calls = calls_to(client, vm_id, patience=left)
    calls.ask(Health(), GuestHealth, timeout=left)
    if event == "boot":
        left = max(0.1, deadline - time.monotonic())
        # Its exit status tells of failed units, which is not what was asked.
        calls.ask(Exec(argv=("systemctl", "is-system-running", "--wait")), Exited, timeout=left)


def _too_long(name: str) -> TransientError:
    return TransientError(
        ErrorCode.GUEST_TIMEOUT,
        f"VM {name} has not come so far in the time given",
        hint=f"see: banger vm show {name}, banger vm logs {name}",
    )
