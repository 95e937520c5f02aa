"""`banger image`."""

from __future__ import annotations

from pathlib import Path

import click

from banger.api.models import BuildImage, Image
from banger.api.names import check_name
from banger.api.sizes import format_size
from banger.cli.app import App, pass_app
from banger.cli.changes import ask, follow, remove_all
from banger.cli.params import complete_images, option_json, option_quiet
from banger.cli.render.console import out, out_json
from banger.cli.render.progress import choose_progress, took
from banger.cli.render.table import fields, moment, table

_HEAD = ("NAME", "ID", "DISTRIBUTION", "KERNEL", "ROOT", "WORK", "ON DISK", "CREATED")


@click.group("image")
def group() -> None:
    """Build and look after the images VMs boot.

    \b
    Example:
      banger image list
    """


@group.command("list")
@option_json
@pass_app
def list_images(app: App) -> None:
    """List all images.

    \b
    Example:
      banger image list --json
    """
    images = app.connect().images()
    if app.json:
        out_json(images)
    else:
        out(table(_HEAD, map(_row, images)))


@group.command("show")
@click.argument("image", shell_complete=complete_images)
@option_json
@pass_app
def show_image(app: App, image: str) -> None:
    """Show everything about one image.

    \b
    Example:
      banger image show debian-bookworm
    """
    found = app.connect().image(image)
    if app.json:
        out_json(found)
    else:
        out(fields([*zip(_LABELS, _row(found), strict=True), ("packages", _packages(found))]))


@group.command("build")
@click.argument("name", required=False, type=check_name, shell_complete=complete_images)
@click.option(
    "--recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A recipe of your own (TOML).",
)
@click.option("--force", is_flag=True, help="Build it even if it is there already.")
@option_quiet
@option_json
@pass_app
def build_image(app: App, name: str | None, recipe: Path | None, force: bool, quiet: bool) -> None:
    """Build an image from a recipe, by default banger's own.

    \b
    Examples:
      banger image build
      banger image build tools --recipe tools.toml
    """
    text = recipe.read_text(encoding="utf-8") if recipe else None
    client = app.connect()
    progress = choose_progress(quiet=quiet)
    request = BuildImage(name=name, recipe=text, force=force)
    operation = ask(lambda: client.build_image(request))
    ended = follow(client, operation, progress)
    image = client.image(ended.target_name or ended.target or "")
    progress.close(f"{image.name} built in {took(ended)}")
    if app.json:
        out_json(image)
    else:
        out(image.name)


@group.command("delete")
@click.argument(
    "images", metavar="IMAGE...", nargs=-1, required=True, shell_complete=complete_images
)
@option_quiet
@option_json
@pass_app
def delete_images(app: App, images: tuple[str, ...], quiet: bool) -> int:
    """Delete images that no VM uses.

    \b
    Example:
      banger image delete tools
    """
    return remove_all(app, images, lambda client, image: client.delete_image(image), quiet=quiet)


_LABELS = ("name", "id", "distribution", "kernel", "root disk", "work disk", "on host", "created")


def _row(image: Image) -> tuple[str, ...]:
    return (
        image.name,
        image.id,
        image.distribution or "-",
        image.kernel,
        format_size(image.root_size),
        format_size(image.work_size),
        format_size(image.allocated_bytes),
        moment(image.created_at),
    )


def _packages(image: Image) -> str:
    return ", ".join(image.packages) or "-"
