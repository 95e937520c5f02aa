"""Errors as lines: what was wrong, then what to type next. With `--json`, as JSON too."""

from __future__ import annotations

import os

import click

from banger.api.errors import BangerError, CallerError, ErrorCode, PermanentError
from banger.api.models import ErrorReply
from banger.cli.render.console import RED, YELLOW, note, out_json, paint


def report(error: BangerError, *, as_json: bool, about: str | None = None) -> None:
    """Tell of `error`, which befell the VM called `about`."""
    _show_traceback(error)
    prefix = f"{about}: " if about and about not in error.message else ""
    note(f"{paint('banger:', RED, 2)} {prefix}{error.message}")
    for line in (error.hint or "").splitlines():
        note(f"{paint('hint:', YELLOW, 2)} {line}")

    if as_json:
        out_json(ErrorReply(error=error.body()))


def report_usage(error: click.ClickException, *, as_json: bool) -> int:
    """Tell of a command line that makes no sense; returns the exit status for it."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code

    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "banger"
    message = error.format_message().rstrip(".")
    hint = f"see: {path} --help"
    report(CallerError(ErrorCode.INVALID_REQUEST, message, hint=hint), as_json=as_json)
    return error.exit_code


def report_crash(error: Exception, *, as_json: bool) -> None:
    """Tell of what nobody expected."""
    _show_traceback(error)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror

    hint = "BANGER_DEBUG=1 before the command shows where; please report it"
    report(PermanentError(ErrorCode.INTERNAL, what, hint=hint), as_json=as_json)


def _show_traceback(error: BaseException) -> None:
    if os.environ.get("BANGER_DEBUG") and error.__traceback__ is not None:
        import traceback

        note("".join(traceback.format_exception(error)).rstrip())
