"""`banger vm exec`."""

from __future__ import annotations

import click

from banger.cli.app import App, pass_app
from banger.cli.guest import GuestCommand
from banger.cli.params import complete_vms, environment
from banger.cli.render.console import out


@click.command("exec", cls=GuestCommand)
@click.argument("vm", shell_complete=complete_vms)
@click.option(
    "-e",
    "--env",
    "settings",
    multiple=True,
    metavar="KEY[=VAL]",
    help="Set a variable for the command, to your own value if none is given.",
)
@click.option("-u", "--user", default="root", metavar="USER", help="Run as this user of the guest.")
@click.option("-w", "--workdir", metavar="DIR", help="Run in this directory.")
@click.option("-t/-T", "--tty/--no-tty", default=None, help="With a terminal; without one.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait; print the process id.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="End it then."
)
@pass_app
def exec_vm(
    app: App,
    vm: str,
    command: tuple[str, ...],
    settings: tuple[str, ...],
    user: str,
    workdir: str | None,
    tty: bool | None,
    detach: bool,
    timeout: float | None,
) -> int:
    """Run a command in a running VM, or a login shell, without ssh.

    The command gets your standard input; its outputs and its exit status become banger's. It gets
    a terminal if all of them are one; type ~. at the beginning of a line to leave that. When banger
    itself fails, the exit status is 125.

    \b
    Examples:
      banger vm exec dev
      banger vm exec dev -- make test
      banger vm exec dev -u nobody -w /tmp -- id
      tar c src | banger vm exec dev -- tar x
    """
    if detach and not command:
        raise click.UsageError("-d takes a command")

    env = environment(settings)
    client = app.connect()
    from banger.channel.requests import Exec, Exited
    from banger.cli.agent import calls_to, channel_to, run_in_guest, wants_terminal

    request = Exec(
        argv=command,
        env=env,
        cwd=workdir,
        user=user,
        tty=not detach and (wants_terminal(command) if tty is None else tty),
        timeout=timeout or 0.0,
        detach=detach,
    )
    if detach:
        out(str(calls_to(client, vm).ask(request, Exited).pid))
        return 0

    return run_in_guest(channel_to(client, vm), request)
