"""`banger vm snapshot`."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import CreateSnapshot, RestoreSnapshot, Snapshot
from banger.api.names import check_name
from banger.api.sizes import format_size
from banger.cli.app import App, pass_app
from banger.cli.changes import ask, follow, remove_all
from banger.cli.params import complete_snapshots, complete_vms, option_json, option_quiet
from banger.cli.render.console import out, out_json
from banger.cli.render.progress import choose_progress, took
from banger.cli.render.table import duration, fields, moment, table
from banger.client.client import Client

_HEAD = ("VM", "NAME", "HOLDS", "MEM", "ON DISK", "AGE")


@click.group("snapshot")
def group() -> None:
    """Keep VMs as they are at one moment, and bring that back.

    A snapshot of a running VM holds its memory and its disks, one of a stopped VM its disks.

    \b
    Examples:
      banger vm snapshot create dev before-upgrade
      banger vm snapshot restore dev before-upgrade
    """


@group.command("create")
@click.argument("vm", shell_complete=complete_vms)
@click.argument("name", required=False)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but its name.")
@option_json
@pass_app
def create(app: App, vm: str, name: str | None, quiet: bool) -> None:
    """Keep a VM as it is now, and print the snapshot's name.

    The VM goes on at once: it stands still for a fraction of a second.

    \b
    Examples:
      banger vm snapshot create dev
      banger vm snapshot create dev before-upgrade
    """
    if name is not None:
        check_name(name, "snapshot name")

    client = app.connect()
    progress = choose_progress(quiet=quiet)
    request = CreateSnapshot(name=name)
    operation = follow(client, ask(lambda: client.create_snapshot(vm, request)), progress)
    made = client.snapshot(vm, name) if name else _newest(client, vm)
    progress.close(f"{made.vm}: snapshot {made.name} made in {took(operation)}")
    if app.json:
        out_json(made)
    else:
        out(made.name)


@group.command("list")
@click.argument("vm", required=False, shell_complete=complete_vms)
@option_json
@pass_app
def list_snapshots(app: App, vm: str | None) -> None:
    """List the snapshots of a VM, or of all.

    ON DISK is what a snapshot alone takes on the host, beside what it shares with others.

    \b
    Examples:
      banger vm snapshot list
      banger vm snapshot list dev --json
    """
    client = app.connect()
    found = client.snapshots(vm) if vm is not None else list(_all(client))
    if app.json:
        out_json(found)
    else:
        now = time.time()
        out(table(_HEAD, [_row(snapshot, now) for snapshot in found]))


@group.command("show")
@click.argument("vm", shell_complete=complete_vms)
@click.argument("name", shell_complete=complete_snapshots)
@option_json
@pass_app
def show(app: App, vm: str, name: str) -> None:
    """Show everything about one snapshot.

    \b
    Example:
      banger vm snapshot show dev before-upgrade
    """
    found = app.connect().snapshot(vm, name)
    if app.json:
        out_json(found)
    else:
        out(fields(_describe(found)))


@group.command("restore")
@click.argument("vm", shell_complete=complete_vms)
@click.argument("name", shell_complete=complete_snapshots)
@click.option("--disks-only", is_flag=True, help="Leave it stopped; its next start boots it.")
@option_quiet
@option_json
@pass_app
def restore(app: App, vm: str, name: str, disks_only: bool, quiet: bool) -> None:
    """Make a VM again what it was. What it is now is lost, unless another snapshot holds it.

    If the snapshot holds memory the VM goes on from there, whether it runs now or not; else it is
    stopped. The snapshot stays.

    \b
    Examples:
      banger vm snapshot restore dev before-upgrade
      banger vm snapshot restore dev before-upgrade --disks-only
    """
    client = app.connect()
    progress = choose_progress(quiet=quiet)
    request = RestoreSnapshot(memory=not disks_only)
    operation = ask(lambda: client.restore_snapshot(vm, name, request))
    ended = follow(client, operation, progress, undo=False)
    found = client.vm(vm)
    progress.close(f"{found.name} restored in {took(ended)}; it is {found.state}")
    if app.json:
        out_json(found)


@group.command("delete")
@click.argument("vm", shell_complete=complete_vms)
@click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_snapshots
)
@option_quiet
@option_json
@pass_app
def delete(app: App, vm: str, names: tuple[str, ...], quiet: bool) -> int:
    """Delete snapshots of a VM. The VM stays as it is, and so do VMs made of them.

    \b
    Example:
      banger vm snapshot delete dev before-upgrade
    """
    return remove_all(
        app, names, lambda client, name: client.delete_snapshot(vm, name), quiet=quiet
    )


def _newest(client: Client, vm: str) -> Snapshot:
    return max(client.snapshots(vm), key=lambda snapshot: snapshot.created_at)


def _all(client: Client) -> Iterator[Snapshot]:
    for vm in client.vms():
        try:
            yield from client.snapshots(vm.id)
        except CallerError as error:
            # Deleted since it was listed, and its snapshots with it.
            if error.code is not ErrorCode.UNKNOWN_VM:
                raise


def _row(snapshot: Snapshot, now: float) -> tuple[str, ...]:
    return (
        snapshot.vm,
        snapshot.name,
        _holds(snapshot),
        format_size(snapshot.spec.memory) if snapshot.memory else "-",
        format_size(snapshot.allocated_bytes),
        duration(now - snapshot.created_at),
    )


def _describe(snapshot: Snapshot) -> list[tuple[str, str]]:
    spec = snapshot.spec
    return [
        ("name", snapshot.name),
        ("id", snapshot.id),
        ("vm", f"{snapshot.vm} ({snapshot.vm_id})"),
        ("holds", _holds(snapshot)),
        ("image", spec.image),
        ("vcpus", str(spec.vcpus)),
        ("memory", format_size(spec.memory)),
        ("root disk", format_size(spec.root_size)),
        ("work disk", format_size(spec.disk_size)),
        ("on host", format_size(snapshot.allocated_bytes)),
        ("created", moment(snapshot.created_at)),
    ]


def _holds(snapshot: Snapshot) -> str:
    return "memory, disks" if snapshot.memory else "disks"
