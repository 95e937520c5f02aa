"""`banger doctor`."""

from __future__ import annotations

import click

from banger.api.errors import BangerError, ErrorCode
from banger.api.models import Check, CheckStatus, DoctorReport
from banger.cli.app import App, pass_app
from banger.cli.params import option_json
from banger.cli.render.console import GREEN, RED, YELLOW, out, out_json, paint

_COLOURS = {CheckStatus.PASS: GREEN, CheckStatus.WARN: YELLOW, CheckStatus.FAIL: RED}


@click.command("doctor")
@option_json
@pass_app
def doctor(app: App) -> int:
    """Say what this host can do for VMs, and what to do about the rest.

    Fails if anything that is needed is missing.

    \b
    Example:
      banger doctor
    """
    report = _examine(app)
    if app.json:
        out_json(report)
    else:
        for check in report.checks:
            _show(check)

    return 1 if any(check.status is CheckStatus.FAIL for check in report.checks) else 0


def _examine(app: App) -> DoctorReport:
    try:
        client = app.connect()
    except BangerError as error:
        if error.code is ErrorCode.DAEMON_UNREACHABLE and app.host:
            raise

        # A daemon that cannot start is the first thing to be told of, not a reason to tell nothing.
        failure = Check(
            name="daemon", status=CheckStatus.FAIL, summary=error.message, fix=error.hint
        )
        return DoctorReport(checks=(failure,))

    return client.doctor()


def _show(check: Check) -> None:
    out(f"{paint(f'{check.status:<4}', _COLOURS[check.status])}  {check.name}: {check.summary}")
    for detail in check.details:
        out(f"      {detail}")

    if check.fix and check.status is not CheckStatus.PASS:
        out(f"      fix: {check.fix}")
