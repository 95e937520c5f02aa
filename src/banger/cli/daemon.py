"""`banger daemon`."""

from __future__ import annotations

import click

from banger.api.errors import CallerError, ErrorCode
from banger.cli.app import App, pass_app
from banger.cli.params import option_json, option_quiet
from banger.cli.render.console import note, out, out_json
from banger.cli.render.table import fields, moment
from banger.client.autostart import EmbeddedDaemon, connect, installed_daemon
from banger.host.paths import default_paths


@click.group("daemon")
def group() -> None:
    """Look after the daemon. Commands that need it start it themselves; VMs outlive it.

    \b
    Example:
      banger daemon status
    """


@group.command("status")
@option_json
@pass_app
def status(app: App) -> None:
    """Show the daemon, if it runs.

    \b
    Example:
      banger daemon status --json
    """
    found = connect(app.host, start=False).status()
    if app.json:
        out_json(found)
        return

    pairs = (
        ("version", found.version),
        ("pid", str(found.pid)),
        ("started", moment(found.started_at)),
        ("socket", found.socket),
        ("state", found.state_dir),
        ("host path", found.host_path),
        ("hypervisor", f"{found.hypervisor} ({found.accelerator})"),
        ("vms", f"{found.vms}, {found.running} running"),
        ("operations", str(found.operations)),
    )
    out(fields(pairs))


@group.command("start")
@option_quiet
@pass_app
def start(app: App, quiet: bool) -> None:
    """Start the daemon if it does not run.

    \b
    Example:
      banger daemon start
    """
    found = app.connect().version()
    if not quiet:
        note(f"daemon running: banger {found.version}, pid {found.pid}")


@group.command("stop")
@option_quiet
@pass_app
def stop(app: App, quiet: bool) -> None:
    """Stop your daemon and wait until it is gone. VMs run on.

    \b
    Example:
      banger daemon stop
    """
    if app.host:
        raise CallerError(
            ErrorCode.INVALID_REQUEST,
            "--host names a daemon that is not started or stopped from here",
            hint="stop it where it runs, or leave --host out",
        )

    if installed_daemon() is not None:
        raise CallerError(
            ErrorCode.NEEDS_ROOT,
            "the daemon is a service here, which systemd would start again",
            hint="sudo systemctl stop bangerd, or to have it anew: sudo banger system restart",
        )

    stopped = EmbeddedDaemon(default_paths()).stop()
    if not quiet:
        note("daemon stopped" if stopped else "the daemon was not running")


@group.command("socket")
@pass_app
def socket(app: App) -> None:
    """Print the path of the daemon's socket, with a daemon that answers on it.

    \b
    Example:
      curl --unix-socket $(banger daemon socket) http://banger/v1/vms
    """
    out(str(app.connect().socket))
