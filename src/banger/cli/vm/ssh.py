"""`banger vm ssh`."""

from __future__ import annotations

import click

from banger.cli.app import App, pass_app
from banger.cli.guest import GuestCommand
from banger.cli.params import complete_vms, environment


@click.command("ssh", cls=GuestCommand)
@click.argument("vm", shell_complete=complete_vms)
@click.option(
    "-e",
    "--env",
    "settings",
    multiple=True,
    metavar="KEY[=VAL]",
    help="Set a variable for the command, to your own value if none is given.",
)
@pass_app
def ssh(app: App, vm: str, command: tuple[str, ...], settings: tuple[str, ...]) -> int:
    """Open a shell in a running VM, or run a command in it.

    Streams, terminal and exit status are as with `vm run`. When what follows -- begins with an
    option of ssh(1), all of it is given to ssh as it is.

    \b
    Examples:
      banger vm ssh dev
      banger vm ssh dev -- tail -n 3 /etc/os-release
      banger vm ssh dev -- -L 8080:localhost:80 -N
    """
    env = environment(settings)
    client = app.connect()
    endpoint = client.ssh(vm)
    from banger.cli.session import Session, run_session

    if command and command[0].startswith("-"):
        return run_session(Session(name=vm, endpoint=endpoint, env=env, ssh_args=command))

    return run_session(Session(name=vm, endpoint=endpoint, env=env, command=command))
