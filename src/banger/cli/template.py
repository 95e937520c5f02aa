"""`banger template`."""

from __future__ import annotations

import time
from typing import TypedDict, Unpack

import click

from banger.api.models import MakeTemplate, PruneTemplates, Template
from banger.api.sizes import format_size, parse_size
from banger.cli.app import App, pass_app
from banger.cli.changes import ask, follow, remove_all
from banger.cli.params import complete_images, complete_templates, option_json, option_quiet
from banger.cli.render.console import note, out, out_json
from banger.cli.render.progress import choose_progress, took
from banger.cli.render.table import duration, table
from banger.client.client import Client

_HEAD = ("KEY", "IMAGE", "VCPU", "MEM", "ROOT", "WORK", "VMS", "ON DISK", "AGE", "USED")


class _Shape(TypedDict):
    image: str | None
    vcpus: int | None
    memory: int | None
    root_size: int | None
    disk_size: int | None


@click.group("template")
def group() -> None:
    """Look after the booted guests that new VMs start from.

    They are made by themselves, once a first VM of an image and a shape has booted, out of a guest
    that nobody used. A VM for which there is one starts in a fraction of a second.

    \b
    Examples:
      banger template list
      banger template make --memory 2G
    """


@group.command("list")
@option_json
@pass_app
def list_templates(app: App) -> None:
    """List all templates, the one used last first.

    VMS is how many of today's VMs began as a copy of it.

    \b
    Example:
      banger template list --json
    """
    templates = app.connect().templates()
    if app.json:
        out_json(templates)
    else:
        now = time.time()
        out(table(_HEAD, [_row(template, now) for template in templates]))


@group.command("make")
@click.option("--image", metavar="IMAGE", shell_complete=complete_images, help="Of this image.")
@click.option("--vcpu", "vcpus", type=click.IntRange(1, 64), metavar="N", help="Virtual CPUs.")
@click.option("--memory", type=parse_size, metavar="SIZE", help="Memory, like 2G.")
@click.option(
    "--disk-size", type=parse_size, metavar="SIZE", help="Size of the disk that is its /root."
)
@click.option(
    "--root-size", type=parse_size, metavar="SIZE", help="Size of the disk that is its /."
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but its key.")
@option_json
@pass_app
def make_template(app: App, quiet: bool, **shape: Unpack[_Shape]) -> None:
    """Make the template of an image and a shape now, unless there is one, and print its key.

    What is not given is as for `banger vm create`.

    \b
    Examples:
      banger template make
      banger template make --image tools --vcpu 4 --memory 4G
    """
    client = app.connect()
    progress = choose_progress(quiet=quiet)
    request = MakeTemplate(**shape)
    operation = follow(client, ask(lambda: client.make_template(request)), progress)
    key = operation.target or ""
    progress.close(f"template {key} ready in {took(operation)}")
    if app.json:
        out_json(_find(client, key))
    else:
        out(key)


@group.command("delete")
@click.argument(
    "keys", metavar="KEY...", nargs=-1, required=True, shell_complete=complete_templates
)
@option_quiet
@option_json
@pass_app
def delete_templates(app: App, keys: tuple[str, ...], quiet: bool) -> int:
    """Delete templates. The VMs that were started from them stay as they are.

    \b
    Example:
      banger template delete $(banger template list --json | jq -r '.[].key')
    """
    return remove_all(app, keys, lambda client, key: client.delete_template(key), quiet=quiet)


@group.command("prune")
@click.option("--all", "everything", is_flag=True, help="Delete those of use, too.")
@option_quiet
@option_json
@pass_app
def prune_templates(app: App, everything: bool, quiet: bool) -> None:
    """Delete templates that no new VM would start from, as their image or QEMU has changed.

    The VMs that were started from them stay as they are.

    \b
    Examples:
      banger template prune
      banger template prune --all
    """
    client = app.connect()
    before = client.templates()
    progress = choose_progress(quiet=quiet)
    request = PruneTemplates(all=everything)
    operation = ask(lambda: client.prune_templates(request))
    follow(client, operation, progress, undo=False)
    progress.close(None)
    kept = {template.key for template in client.templates()}
    gone = [template for template in before if template.key not in kept]
    if app.json:
        out_json(gone)
        return

    for template in gone:
        out(template.key)

    if not quiet:
        freed = format_size(sum(template.allocated_bytes for template in gone))
        note(f"{len(gone)} deleted, {freed} freed" if gone else "nothing to delete")


def _find(client: Client, key: str) -> Template | None:
    return next((template for template in client.templates() if template.key == key), None)


def _row(template: Template, now: float) -> tuple[str, ...]:
    return (
        template.key,
        template.image,
        str(template.vcpus),
        format_size(template.memory),
        format_size(template.root_size),
        format_size(template.disk_size),
        str(template.clones),
        format_size(template.allocated_bytes),
        duration(now - template.created_at),
        f"{duration(now - template.used_at)} ago",
    )
