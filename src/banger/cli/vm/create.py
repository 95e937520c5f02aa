"""`banger vm create`."""

from __future__ import annotations

from typing import Unpack

import click

from banger.api.models import CreateVM
from banger.cli.app import App, pass_app
from banger.cli.changes import ask, follow
from banger.cli.params import option_json
from banger.cli.render.console import out, out_json
from banger.cli.render.progress import choose_progress, took
from banger.cli.vm.options import Wanted, create_request, describes_vm


@click.command("create")
@describes_vm
@click.option("--no-start", is_flag=True, help="Leave it stopped.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but its name.")
@option_json
@pass_app
def create_vm(app: App, no_start: bool, quiet: bool, **wanted: Unpack[Wanted]) -> None:
    """Make a VM, start it, and print its name.

    \b
    Examples:
      banger vm create --name dev --vcpu 2 --memory 2G
      banger vm create --name web --nat -p 8080:80
    """
    create(app, create_request(wanted, start=not no_start), quiet=quiet)


def create(app: App, request: CreateVM, *, quiet: bool) -> None:
    """Make the VM of `request` and print its name, or with `--json` all about it."""
    client = app.connect()
    progress = choose_progress(quiet=quiet)
    operation = follow(client, ask(lambda: client.create_vm(request)), progress)
    vm = client.vm(operation.target or "")
    progress.close(f"{vm.name} {'ready' if request.start else 'created'} in {took(operation)}")
    if app.json:
        out_json(vm)
    else:
        out(vm.name)
