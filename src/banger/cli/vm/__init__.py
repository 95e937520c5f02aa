"""`banger vm`: one module for each verb, but for the lifecycle verbs, which are one pattern."""

from __future__ import annotations

import click

from banger.cli.lazy import LazyGroup


@click.group(
    "vm",
    cls=LazyGroup,
    places={
        "run": "banger.cli.vm.run:run_vm",
        "create": "banger.cli.vm.create:create_vm",
        "list": "banger.cli.vm.list:list_vms",
        "show": "banger.cli.vm.show:show_vm",
        "start": "banger.cli.vm.lifecycle:start",
        "stop": "banger.cli.vm.lifecycle:stop",
        "restart": "banger.cli.vm.lifecycle:restart",
        "pause": "banger.cli.vm.lifecycle:pause",
        "resume": "banger.cli.vm.lifecycle:resume",
        "reclaim": "banger.cli.vm.lifecycle:reclaim",
        "suspend": "banger.cli.vm.lifecycle:suspend",
        "fork": "banger.cli.vm.fork:fork",
        "snapshot": "banger.cli.vm.snapshot:group",
        "kill": "banger.cli.vm.lifecycle:kill",
        "delete": "banger.cli.vm.lifecycle:delete",
        "prune": "banger.cli.vm.prune:prune",
        "set": "banger.cli.vm.set:set_vm",
        "exec": "banger.cli.vm.exec:exec_vm",
        "cp": "banger.cli.vm.cp:cp",
        "ssh": "banger.cli.vm.ssh:ssh",
        "logs": "banger.cli.vm.logs:logs",
        "stats": "banger.cli.vm.stats:stats",
        "ports": "banger.cli.vm.ports:ports",
        "wait": "banger.cli.vm.wait:wait",
    },
    aliases={"rm": "delete", "ls": "list"},
)
def group() -> None:
    """Make, use and remove VMs.

    A VM is named by its name, its id, or the beginning of its id if no other begins so.

    \b
    Examples:
      banger vm run --name dev
      banger vm ssh dev
      banger vm stop dev
    """
