"""`banger gc`."""

from __future__ import annotations

import click

from banger.api.sizes import format_size
from banger.cli.app import App, pass_app
from banger.cli.params import option_json, option_quiet
from banger.cli.render.console import note, out, out_json


@click.command("gc")
@option_quiet
@option_json
@pass_app
def gc(app: App, quiet: bool) -> None:
    """Remove files that nothing refers to any more, and say what they were.

    They are what is left of VMs, snapshots and templates that are gone: disk layers that others
    were made of, and what was being made when the host lost power. The daemon does this itself
    from time to time; nothing that is in use is ever touched.

    \b
    Example:
      banger gc
    """
    garbage = app.connect().collect_garbage()
    if app.json:
        out_json(garbage)
        return

    for path in garbage.removed:
        out(path)

    if not quiet:
        count = len(garbage.removed)
        note(
            f"{count} removed, {format_size(garbage.freed_bytes)} freed"
            if count
            else "nothing to remove"
        )
