"""`banger vm stats`."""

from __future__ import annotations

import click

from banger.api.errors import BangerError
from banger.api.models import VMState, VMStats
from banger.api.sizes import format_size
from banger.cli.app import App, pass_app
from banger.cli.params import complete_vms, option_json
from banger.cli.render.console import out, out_json
from banger.cli.render.errors import report
from banger.cli.render.table import duration, table

_HEAD = ("NAME", "STATE", "CPU", "CPU TIME", "MEM", "MEM (PSS)", "ROOT", "WORK", "UP")
_ALIVE = (VMState.RUNNING, VMState.PAUSED)


@click.command("stats")
@click.argument("vms", metavar="[VM...]", nargs=-1, shell_complete=complete_vms)
@option_json
@pass_app
def stats(app: App, vms: tuple[str, ...]) -> int:
    """Show what VMs use of the host; without names, all that run or are paused.

    CPU is the average since the VM was started; ROOT and WORK are what its disks take on the host.

    \b
    Examples:
      banger vm stats
      banger vm stats dev --json
    """
    client = app.connect()
    refs = vms or [vm.id for vm in client.vms() if vm.state in _ALIVE]
    found: dict[str, VMStats] = {}
    failures = 0
    for ref in refs:
        try:
            usage = client.stats(ref)
            found.setdefault(usage.id, usage)
        except BangerError as error:
            report(error, as_json=app.json, about=ref)
            failures += 1

    if app.json:
        out_json(list(found.values()))
    else:
        out(table(_HEAD, map(_row, found.values())))

    return 1 if failures else 0


def _row(usage: VMStats) -> tuple[str, ...]:
    return (
        usage.name,
        usage.state,
        f"{usage.cpu_percent:.0f}%",
        f"{usage.cpu_seconds:.1f}s",
        format_size(usage.rss_bytes),
        format_size(usage.pss_bytes),
        format_size(usage.root_allocated_bytes),
        format_size(usage.work_allocated_bytes),
        duration(usage.uptime_seconds),
    )
