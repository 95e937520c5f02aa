"""`banger vm list`, also `banger ps`: the command whose start-up time is a promise."""

from __future__ import annotations

import time

import click

from banger.api.models import VM
from banger.api.sizes import format_size
from banger.cli.app import App, pass_app
from banger.cli.params import option_json
from banger.cli.render.console import out, out_json
from banger.cli.render.table import duration, table

_HEAD = ("ID", "NAME", "STATE", "IMAGE", "ADDRESS", "SSH", "VCPU", "MEM", "ON DISK", "AGE")


@click.command("list")
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@option_json
@pass_app
def list_vms(app: App, quiet: bool) -> None:
    """List all VMs.

    ON DISK is what a VM's disks take on the host; what several VMs share counts for each.

    \b
    Examples:
      banger vm list                  # or: banger ps
      banger vm list --json
      banger vm stop $(banger vm list -q)
    """
    vms = app.connect().vms()
    if app.json:
        out_json(vms)
    elif quiet:
        for vm in vms:
            out(vm.id)
    else:
        out(vm_table(vms))


def vm_table(vms: list[VM]) -> str:
    """VMs as people read them."""
    now = time.time()
    return table(_HEAD, [_row(vm, now) for vm in vms])


def _row(vm: VM, now: float) -> tuple[str, ...]:
    spec = vm.spec
    return (
        vm.id,
        vm.name,
        vm.state,
        spec.image,
        vm.address or "-",
        _ssh(vm),
        str(spec.vcpus),
        format_size(spec.memory),
        "-" if vm.allocated_bytes is None else format_size(vm.allocated_bytes),
        duration(now - vm.created_at),
    )


def _ssh(vm: VM) -> str:
    return vm.hostname or (f"{vm.ssh_host}:{vm.ssh_port}" if vm.ssh_port else "-")
