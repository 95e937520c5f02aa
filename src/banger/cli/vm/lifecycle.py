"""`banger vm start|stop|pause|suspend|...`: the same change to any number of VMs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import click

from banger.api.models import KillVM
from banger.cli.app import App, pass_app
from banger.cli.changes import Change, change_all
from banger.cli.params import complete_vms, option_json, option_quiet

_Command = Callable[..., int]

Signal = Literal["KILL", "TERM", "INT", "QUIT", "ABRT"]
_SIGNALS = ("KILL", "TERM", "INT", "QUIT", "ABRT")


def _on_vms(function: _Command) -> _Command:
    options = (
        click.argument(
            "vms", metavar="VM...", nargs=-1, required=True, shell_complete=complete_vms
        ),
        option_quiet,
        option_json,
        pass_app,
    )
    for option in reversed(options):
        function = option(function)

    return function


@click.command("start")
@_on_vms
def start(app: App, vms: tuple[str, ...], quiet: bool) -> int:
    """Start VMs and wait until they answer. A suspended one goes on where it was.

    \b
    Examples:
      banger vm start dev
      banger vm start $(banger vm list -q)
    """
    change = Change(ask=lambda client, vm: client.start_vm(vm), done="ready", undo=True)
    return change_all(app, vms, change, quiet=quiet)


@click.command("stop")
@_on_vms
def stop(app: App, vms: tuple[str, ...], quiet: bool) -> int:
    """Stop VMs: the guest writes its data to disk and powers off.

    \b
    Examples:
      banger vm stop dev
      banger vm stop dev build-1 build-2
    """
    change = Change(ask=lambda client, vm: client.stop_vm(vm), done="stopped")
    return change_all(app, vms, change, quiet=quiet)


@click.command("restart")
@_on_vms
def restart(app: App, vms: tuple[str, ...], quiet: bool) -> int:
    """Stop and start VMs.

    \b
    Example:
      banger vm restart dev
    """
    change = Change(ask=lambda client, vm: client.restart_vm(vm), done="ready")
    return change_all(app, vms, change, quiet=quiet)


@click.command("pause")
@_on_vms
def pause(app: App, vms: tuple[str, ...], quiet: bool) -> int:
    """Let VMs stand still. They keep their memory and use no CPU.

    \b
    Example:
      banger vm pause dev
    """
    change = Change(ask=lambda client, vm: client.pause_vm(vm), done="paused")
    return change_all(app, vms, change, quiet=quiet)


@click.command("resume")
@_on_vms
def resume(app: App, vms: tuple[str, ...], quiet: bool) -> int:
    """Let paused VMs go on.

    \b
    Example:
      banger vm resume dev
    """
    change = Change(ask=lambda client, vm: client.resume_vm(vm), done="resumed")
    return change_all(app, vms, change, quiet=quiet)


@click.command("reclaim")
@_on_vms
def reclaim(app: App, vms: tuple[str, ...], quiet: bool) -> int:
    """Give the host what memory running VMs do not need now.

    They go on, and use it again when they want: `vm stats` shows what they have at the moment.

    \b
    Examples:
      banger vm reclaim dev
      banger vm reclaim $(banger vm list -q)
    """
    change = Change(ask=lambda client, vm: client.reclaim_vm(vm), done="reclaimed")
    return change_all(app, vms, change, quiet=quiet)


@click.command("suspend")
@_on_vms
def suspend(app: App, vms: tuple[str, ...], quiet: bool) -> int:
    """Write VMs' memory to disk and end them; `vm start` lets them go on where they were.

    \b
    Examples:
      banger vm suspend dev
      banger vm start dev
    """
    change = Change(ask=lambda client, vm: client.suspend_vm(vm), done="suspended", undo=True)
    return change_all(app, vms, change, quiet=quiet)


@click.command("kill")
@click.option(
    "--signal",
    default="KILL",
    show_default=True,
    type=click.Choice(_SIGNALS, case_sensitive=False),
    help="What to send.",
)
@_on_vms
def kill(app: App, vms: tuple[str, ...], quiet: bool, signal: Signal) -> int:
    """Send a signal to the process that runs a VM; the guest is not asked.

    What the guest has not written to disk is lost, as when a machine loses power.

    \b
    Examples:
      banger vm kill dev
      banger vm kill --signal TERM dev
    """
    request = KillVM(signal=signal)
    change = Change(ask=lambda client, vm: client.kill_vm(vm, request), done="killed")
    return change_all(app, vms, change, quiet=quiet)


@click.command("delete")
@_on_vms
def delete(app: App, vms: tuple[str, ...], quiet: bool) -> int:
    """Delete VMs, running or not, with their disks.

    \b
    Examples:
      banger vm delete dev
      banger vm rm build-1 build-2
    """
    change = Change(ask=lambda client, vm: client.delete_vm(vm), done="deleted", removes=True)
    return change_all(app, vms, change, quiet=quiet)
