"""`banger vm fork`."""

from __future__ import annotations

import click

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import VM, ForkVM, VMState
from banger.api.names import check_name
from banger.cli.app import App, pass_app
from banger.cli.changes import ask, follow
from banger.cli.params import complete_snapshots, complete_vms, option_json
from banger.cli.render.console import out, out_json
from banger.cli.render.progress import choose_progress, took

_NUMBER = "{n}"


@click.command("fork")
@click.argument("vm", shell_complete=complete_vms)
@click.option(
    "--count",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    metavar="N",
    help="Make N.",
)
@click.option(
    "--name",
    metavar="PATTERN",
    help="What to call them, {n} being the number of each; made of the VM's name if not given.",
)
@click.option(
    "--snapshot",
    metavar="NAME",
    shell_complete=complete_snapshots,
    help="Go on from this snapshot of the VM, not from now.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the names.")
@option_json
@pass_app
def fork(
    app: App, vm: str, count: int, name: str | None, snapshot: str | None, quiet: bool
) -> None:
    """Make copies of a VM, memory and disks, that run where it is now, and print their names.

    They go on from the same moment, each with a host name, an address and keys of its own; the VM
    itself goes on too. What either writes from then on, the others do not see. Connections that
    were open in the VM are broken in its copies. Copies of a stopped VM are stopped.

    \b
    Examples:
      banger vm fork dev
      banger vm fork dev --count 4 --name "try-{n}"
      for vm in $(banger vm fork -q dev --count 4); do banger vm exec $vm -- make test; done
    """
    if name is not None:
        _check_pattern(name, count)

    client = app.connect()
    request = ForkVM(count=count, name=name, snapshot=snapshot)
    progress = choose_progress(quiet=quiet)
    operation = follow(client, ask(lambda: client.fork_vm(vm, request)), progress)
    children = [client.vm(name) for name in operation.made]
    progress.close(f"{_summary(children)}; took {took(operation)}")
    if app.json:
        out_json(children)
    else:
        for child in children:
            out(child.name)


def _summary(children: list[VM]) -> str:
    first = children[0]
    runs = first.state is VMState.RUNNING
    verb, state = ("exec", "running") if runs else ("start", "made")
    what = first.name if len(children) == 1 else f"{len(children)} copies"
    return f"{what} {state}: banger vm {verb} {first.name}"


def _check_pattern(pattern: str, count: int) -> None:
    if count > 1 and _NUMBER not in pattern:
        raise CallerError(
            ErrorCode.INVALID_NAME,
            f"{count} VMs cannot all be called {pattern!r}",
            hint=f"write {_NUMBER} where the number of each belongs: --name '{pattern}-{_NUMBER}'",
        )

    check_name(pattern.replace(_NUMBER, str(count)))
