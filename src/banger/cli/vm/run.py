"""`banger vm run`: a VM, a command or shell in it, and with `--rm` no trace of it afterwards."""

from __future__ import annotations

import os
from typing import Unpack

import click
import msgspec

from banger.api.errors import BangerError, ErrorCode
from banger.api.models import CreateVM, VMState
from banger.cli.app import OWN_FAILURE, App, pass_app
from banger.cli.changes import ask, follow
from banger.cli.guest import GuestCommand
from banger.cli.params import environment, option_json
from banger.cli.render.console import DIM, note, paint
from banger.cli.render.errors import report
from banger.cli.render.progress import choose_progress, took
from banger.cli.vm.create import create
from banger.cli.vm.options import Wanted, create_request, describes_vm
from banger.client.client import Client


class _Doing(msgspec.Struct, frozen=True, kw_only=True):
    request: CreateVM
    command: tuple[str, ...]
    env: dict[str, str]
    remove: bool
    quiet: bool


@click.command("run", cls=GuestCommand)
@describes_vm
@click.option("--rm", "remove", is_flag=True, help="Delete the VM when the command has ended.")
@click.option("-d", "--detach", is_flag=True, help="Leave it running and print its name.")
@click.option(
    "-e",
    "--env",
    "settings",
    multiple=True,
    metavar="KEY[=VAL]",
    help="Set a variable for the command, to your own value if none is given.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@option_json
@pass_app
def run_vm(
    app: App,
    /,
    command: tuple[str, ...],
    remove: bool,
    detach: bool,
    settings: tuple[str, ...],
    quiet: bool,
    **wanted: Unpack[Wanted],
) -> int:
    """Make a VM and run a command in it, or a login shell.

    The command gets your standard input; its outputs and its exit status become banger's. It gets
    a terminal if all of them are one. When banger itself fails, the exit status is 125.

    \b
    Examples:
      banger vm run
      banger vm run --rm -- uname -r
      banger vm run --rm -e CI -- sh -c 'make test' < input > output
      banger vm run -d --name web --nat -p 8080:80
    """
    if detach and (command or remove or settings):
        raise click.UsageError("-d only makes a VM: it takes no command, no --rm and no -e")

    if app.json and not detach:
        raise click.UsageError("--json goes with -d: without it the output is the guest's")

    env = environment(settings)
    request = create_request(wanted, holder_pid=os.getpid() if remove else None)
    if detach:
        create(app, request, quiet=quiet)
        return 0

    # What the guest writes to standard error must come out alone where it is recorded.
    quiet = quiet or not os.isatty(2)
    return _run(
        app.connect(),
        _Doing(request=request, command=command, env=env, remove=remove, quiet=quiet),
    )


def _run(client: Client, doing: _Doing) -> int:
    operation = ask(lambda: client.create_vm(doing.request))
    # Costly to import, so that is done while the daemon works.
    from banger.channel import terminal  # noqa: F401
    from banger.channel.requests import Exec
    from banger.cli.agent import channel_to, run_in_guest, wants_terminal

    progress = choose_progress(quiet=doing.quiet)
    operation = follow(client, operation, progress)
    vm_id = operation.target or ""
    status, removed = OWN_FAILURE, True
    try:
        channel = channel_to(client, vm_id)
        progress.close(f"{operation.target_name} ready in {took(operation)}")
        tty = wants_terminal(doing.command)
        status = run_in_guest(channel, Exec(argv=doing.command, env=doing.env, tty=tty))
    finally:
        if doing.remove:
            removed = _remove(client, vm_id)

    if not (doing.remove or doing.command or doing.quiet):
        _remind(client, vm_id)

    return status if removed or status else OWN_FAILURE


def _remove(client: Client, vm_id: str) -> bool:
    """Delete the VM; False, and reported, if it may still be there."""
    try:
        client.wait(client.delete_vm(vm_id))
    except BangerError as error:
        if error.code is ErrorCode.UNKNOWN_VM:
            return True

        report(error, as_json=False, about=vm_id)
        return False

    return True


def _remind(client: Client, vm_id: str) -> None:
    vm = client.vm(vm_id)
    if vm.state is VMState.RUNNING:
        line = f"{vm.name} is still running. Back: banger vm ssh {vm.name}"
        note(paint(f"{line}; stop: banger vm stop {vm.name}", DIM, 2))
