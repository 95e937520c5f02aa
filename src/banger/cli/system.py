"""`banger system`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from banger.api.errors import CallerError, ErrorCode
from banger.cli.app import App, pass_app
from banger.cli.params import option_json, option_quiet
from banger.cli.render.console import note, out, out_json
from banger.cli.render.table import fields, moment
from banger.host.paths import system_paths
from banger.install import files, guests, layout, removal, services, setup, systemd
from banger.install.metadata import require_metadata
from banger.install.owner import find_owner
from banger.install.status import ServiceState, SystemStatus, examine
from banger.install.tree import Tree

_UNITS = {"daemon": layout.DAEMON_UNIT, "helper": layout.HELPER_UNIT}


@click.group("system")
def group() -> None:
    """Run VMs as a service of this host: Firecracker, names under .vm, VMs that start with it.

    \b
    Examples:
      sudo banger system install --owner alice
      banger system status
    """


@group.command("install")
@click.option("--owner", metavar="USER", help="Who runs VMs  [default: who called sudo].")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Put the files below DIR, for a package or an image; start nothing.",
)
@option_quiet
def install(owner: str | None, root: Path | None, quiet: bool) -> None:
    """Install both services for one user, or bring them to this version. VMs run on.

    What fails is taken back. docs/install.md says what goes where.

    \b
    Example:
      sudo banger system install --owner alice
    """
    told = (lambda line: None) if quiet else note
    user = find_owner(owner)
    if root is not None:
        with contextlib.ExitStack() as undo:
            setup.put_files(Tree(root.absolute(), undo), user, told)
            undo.pop_all()

        return

    _require_root("install")
    setup.install(user, told)
    told(f"installed: {user.name} can now type banger vm run")


@group.command("status")
@option_json
@pass_app
def status(app: App) -> int:
    """Show both services, their sockets and versions. Fails unless both run this version.

    \b
    Example:
      banger system status --json
    """
    found = examine()
    if app.json:
        out_json(found)
    else:
        out(fields(_described(found)))

    return 0 if found.well else 1


@group.command("restart")
@click.argument("services_", metavar="[daemon|helper]", type=click.Choice(list(_UNITS)), nargs=-1)
@option_quiet
def restart(services_: tuple[str, ...], quiet: bool) -> None:
    """Restart the services, or one of them, and wait until they answer. VMs run on.

    \b
    Example:
      sudo banger system restart daemon
    """
    _require_root("restart")
    require_metadata()
    for name in ("helper", "daemon"):
        if not services_ or name in services_:
            systemd.restart(_UNITS[name])

    greeting, answered = services.greet_helper(), services.daemon().version()
    if not quiet:
        note(f"running: daemon {answered.version}, helper {greeting.version}")


@group.command("stop-guests")
@option_quiet
def stop_guests(quiet: bool) -> None:
    """Stop all VMs at once, as the host does when it shuts down; until that is done none starts.

    Each guest writes everything to its disks and powers off; what has not within 30 s is killed.

    \b
    Example:
      banger system stop-guests
    """
    require_metadata()
    guests.stop_guests(services.daemon(), system_paths().vm_run)
    if not quiet:
        note("no VM runs")


@group.command("uninstall")
@click.option("--stop-vms", is_flag=True, help="Stop VMs that run.")
@click.option("--purge", is_flag=True, help="Remove VMs, images and configuration as well.")
@option_quiet
def uninstall(stop_vms: bool, purge: bool, quiet: bool) -> None:
    """Remove the services and all that root made for VMs. VMs and images stay, as files.

    \b
    Example:
      sudo banger system uninstall --purge
    """
    _require_root("uninstall")
    told = (lambda line: None) if quiet else note
    removal.uninstall(told, stop_vms=stop_vms, purge=purge)
    told("uninstalled, with all VMs and images" if purge else f"uninstalled; {layout.STATE} stays")


@group.command("units")
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The directory to write them to.",
)
@click.option("--owner", metavar="USER", help="Who runs VMs  [default: who called sudo].")
def units(output: Path, owner: str | None) -> None:
    """Write the files that an installation would give to systemd, to be read or checked.

    \b
    Example:
      banger system units --owner alice --output /tmp/units
    """
    output.mkdir(parents=True, exist_ok=True)
    for path, content in files.host_files(find_owner(owner)).items():
        name = path.name if path.parent == layout.UNITS else f"{path.parent.name}-{path.name}"
        (output / name).write_text(content)
        out(str(output / name))


def _require_root(command: str) -> None:
    if os.geteuid() != 0:
        raise CallerError(
            ErrorCode.NEEDS_ROOT,
            f"banger system {command} needs root",
            hint=f"sudo banger system {command}",
        )


def _described(found: SystemStatus) -> list[tuple[str, str]]:
    vms = "-" if found.vms is None else f"{found.vms}, {found.running} running"
    return [
        ("owner", f"{found.owner} (uid {found.owner_uid})"),
        ("version", f"{found.installed_version}, installed {moment(found.installed_at)}"),
        *_describe_service("daemon", found.daemon),
        *_describe_service("helper", found.helper),
        ("vms", vms),
        ("log", f"journalctl -u {layout.DAEMON_UNIT} -u {layout.HELPER_UNIT}"),
    ]


def _describe_service(name: str, service: ServiceState) -> list[tuple[str, str]]:
    unit, socket = service.unit, service.socket
    pid = f", pid {unit.pid}" if unit.pid else ""
    place = socket.problem or f"mode {socket.mode}, uid {socket.uid}"
    return [
        (name, f"{unit.name}: {unit.active}, {unit.enabled}{pid}"),
        (f"{name} socket", f"{socket.path}: {place}"),
        (f"{name} answers", service.problem or f"banger {service.version}"),
    ]
