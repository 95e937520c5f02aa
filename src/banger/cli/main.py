"""The `banger` command: its top level, and the one place where errors become lines of text.

`banger vm list` as a whole is promised to take at most eight times a bare `python3 -c pass`, so
nothing here or on the way to a command imports what that command does not need.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from banger.api.errors import BangerError
from banger.cli.app import App, pass_app
from banger.cli.lazy import LazyGroup
from banger.cli.render.errors import report, report_crash, report_usage

INTERRUPTED = 130
BROKEN_PIPE = 1


@click.group(
    cls=LazyGroup,
    places={
        "vm": "banger.cli.vm:group",
        "ps": "banger.cli.vm.list:list_vms",
        "image": "banger.cli.image:group",
        "kernel": "banger.cli.kernel:group",
        "template": "banger.cli.template:group",
        "gc": "banger.cli.gc:gc",
        "daemon": "banger.cli.daemon:group",
        "system": "banger.cli.system:group",
        "doctor": "banger.cli.doctor:doctor",
        "version": "banger.cli.version:version",
        "completion": "banger.cli.completion:completion",
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--host",
    metavar="SOCKET",
    help="Talk to the daemon on this socket instead of your own (also: BANGER_HOST).",
)
@pass_app
def cli(app: App, host: str | None) -> None:
    """Development sandboxes on microVMs, one command each.

    \b
    Examples:
      banger vm run                          # a root shell in a new VM
      banger vm run --rm -- uname -r         # one command in a throw-away VM
      banger vm list
    """
    app.host = host


def main() -> NoReturn:
    """Run the command line of this process and exit with its status."""
    # Short-lived, and what it makes it keeps: collecting would only cost time.
    gc.disable()
    _open_standard_streams()
    status = run(sys.argv[1:])
    # All is written and closed; taking the interpreter apart would cost another 10 ms.
    os._exit(status)


def run(args: Sequence[str]) -> int:
    """Run one command line; returns its exit status. Nothing is raised."""
    app = App(json=_wants_json(args))
    try:
        status = _attempt(app, args)
        _flush()
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError:
        # Reported already, if it could be.
        _drop_output()
        return app.failure_status

    return status


def _attempt(app: App, args: Sequence[str]) -> int:
    try:
        status = _invoke(app, args)
        _flush()
    except BangerError as error:
        report(error, as_json=app.json)
        return app.failure_status
    except click.ClickException as error:
        return report_usage(error, as_json=app.json)
    except (click.Abort, BrokenPipeError):
        raise
    except Exception as error:
        # The last resort: a user never sees a traceback.
        report_crash(error, as_json=app.json)
        return app.failure_status

    return status


def _invoke(app: App, args: Sequence[str]) -> int:
    try:
        status: object = cli.main(
            args=list(args), prog_name="banger", standalone_mode=False, obj=app
        )
    except SystemExit as exit_:
        # How click ends after completing a word, and when nobody reads its output any more.
        status = exit_.code

    return status if isinstance(status, int) else 0


def _wants_json(args: Sequence[str]) -> bool:
    # Read before parsing, because a command line that cannot be parsed is reported too.
    return "--json" in args[: args.index("--") if "--" in args else None]


def _open_standard_streams() -> None:
    """Fill descriptors 0 to 2, or a socket could end up as what a guest command reads."""
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:
        null = os.dup(null)

    os.close(null)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _drop_output() -> None:
    # Or the interpreter complains about the unwritten rest when it ends.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
