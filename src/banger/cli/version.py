"""`banger version`."""

from __future__ import annotations

import click
import msgspec

import banger
from banger.api.errors import BangerError
from banger.api.models import DaemonVersion
from banger.cli.app import App, pass_app
from banger.cli.params import option_json
from banger.cli.render.console import out, out_json
from banger.client.autostart import connect


class Versions(msgspec.Struct, frozen=True):
    """What `--json` prints; `daemon` is null when none runs."""

    version: str
    daemon: DaemonVersion | None


@click.command("version")
@option_json
@pass_app
def version(app: App) -> None:
    """Print the version of banger, and of the daemon if it runs.

    \b
    Example:
      banger version
    """
    found = Versions(banger.__version__, _daemon(app))
    if app.json:
        out_json(found)
        return

    out(f"banger {found.version}")
    if found.daemon is not None:
        out(f"daemon {found.daemon.version} (pid {found.daemon.pid})")


def _daemon(app: App) -> DaemonVersion | None:
    try:
        return connect(app.host, start=False).version()
    except BangerError:
        return None
