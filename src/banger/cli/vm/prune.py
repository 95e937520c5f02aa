"""`banger vm prune`."""

from __future__ import annotations

import sys

import click

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import VM, VMState
from banger.cli.app import App, pass_app
from banger.cli.changes import Change, change_all
from banger.cli.params import option_json, option_quiet
from banger.cli.render.console import note
from banger.cli.vm.list import vm_table


@click.command("prune")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@option_quiet
@option_json
@pass_app
def prune(app: App, force: bool, quiet: bool) -> int:
    """Delete all VMs that are stopped, with their disks.

    \b
    Examples:
      banger vm prune
      banger vm prune -f
    """
    stopped = [vm for vm in app.connect().vms() if vm.state is VMState.STOPPED]
    if not stopped:
        if not quiet:
            note("nothing to delete: no VM is stopped")

        return 0

    if not force:
        _confirm(stopped)

    change = Change(ask=lambda client, vm: client.delete_vm(vm), done="deleted", removes=True)
    return change_all(app, [vm.id for vm in stopped], change, quiet=quiet)


def _confirm(vms: list[VM]) -> None:
    note(vm_table(vms))
    if sys.stdin is None or not sys.stdin.isatty():
        raise CallerError(
            ErrorCode.INVALID_REQUEST,
            f"deleting {len(vms)} VM(s) wants a yes, and nobody can be asked",
            hint="to delete them without being asked: banger vm prune -f",
        )

    click.confirm(f"Delete these {len(vms)} VM(s) and their disks?", abort=True, err=True)
