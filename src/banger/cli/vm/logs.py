"""`banger vm logs`."""

from __future__ import annotations

import click

from banger.cli.app import App, pass_app
from banger.cli.params import complete_vms
from banger.cli.render.console import out_bytes


@click.command("logs")
@click.argument("vm", shell_complete=complete_vms)
@click.option("-f", "--follow", is_flag=True, help="Go on with what the guest prints from now on.")
@click.option(
    "-n", "--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines."
)
@pass_app
def logs(app: App, vm: str, follow: bool, tail: int | None) -> None:
    """Print what the guest wrote to its console.

    \b
    Examples:
      banger vm logs dev
      banger vm logs -f -n 20 dev
    """
    for piece in app.connect().logs(vm, follow=follow, tail=tail):
        out_bytes(piece)
