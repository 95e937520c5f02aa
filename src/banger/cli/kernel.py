"""`banger kernel`."""

from __future__ import annotations

import click

from banger.api.models import Kernel
from banger.api.sizes import format_size
from banger.cli.app import App, pass_app
from banger.cli.params import complete_kernels, option_json
from banger.cli.render.console import out, out_json
from banger.cli.render.table import fields, moment, table

_HEAD = ("NAME", "ID", "RELEASE", "SOURCE", "ON DISK", "CREATED")


@click.group("kernel")
def group() -> None:
    """Look at the kernels VMs boot.

    \b
    Example:
      banger kernel list
    """


@group.command("list")
@option_json
@pass_app
def list_kernels(app: App) -> None:
    """List all kernels.

    \b
    Example:
      banger kernel list --json
    """
    kernels = app.connect().kernels()
    if app.json:
        out_json(kernels)
    else:
        out(table(_HEAD, map(_row, kernels)))


@group.command("show")
@click.argument("kernel", shell_complete=complete_kernels)
@option_json
@pass_app
def show_kernel(app: App, kernel: str) -> None:
    """Show everything about one kernel.

    \b
    Example:
      banger kernel show debian-bookworm
    """
    found = app.connect().kernel(kernel)
    if app.json:
        out_json(found)
    else:
        labels = ("name", "id", "release", "source", "on host", "created")
        out(fields(zip(labels, _row(found), strict=True)))


def _row(kernel: Kernel) -> tuple[str, ...]:
    return (
        kernel.name,
        kernel.id,
        kernel.release,
        kernel.source or "-",
        format_size(kernel.allocated_bytes),
        moment(kernel.created_at),
    )
