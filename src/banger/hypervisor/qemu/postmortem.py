"""Why a VMM ended, from what it left on standard error: true also for an end nobody watched.

A guest that shuts down makes QEMU trace `qemu_system_shutdown_request reason=N` (N counts the
ShutdownCause of qapi/run-state.json), a signal makes it say so, and of SIGKILL or a crash there is
neither.
"""

from __future__ import annotations

import re
from pathlib import Path

from banger.hypervisor.base import ExitReason

_REQUEST = re.compile(r"^(?:\S*:)?qemu_system_shutdown_request reason=(\d+)$", re.MULTILINE)
_SIGNALLED = re.compile(r"^\S+: terminating on signal \d+", re.MULTILINE)
_KILLED = "banger: killed"

# ShutdownCause by position: host-qmp-quit, guest-shutdown, guest-panic.
_REASONS = {
    "2": ExitReason.STOPPED,
    "6": ExitReason.GUEST_POWEROFF,
    "8": ExitReason.GUEST_PANIC,
}


def log_file(run_dir: Path) -> Path:
    """Where a VMM's standard error goes for as long as it runs."""
    return run_dir / "qemu.log"


def note_kill(run_dir: Path) -> None:
    """Record that banger is about to kill the VMM, of which the VMM itself leaves no trace."""
    try:
        with log_file(run_dir).open("a") as log:
            log.write(f"\n{_KILLED}\n")
    except FileNotFoundError:
        # Whoever removed the run directory does not ask for a reason.
        return


def read_log(run_dir: Path) -> str:
    """What the VMM wrote to standard error; empty when there is nothing."""
    try:
        return log_file(run_dir).read_text(errors="replace")
    except FileNotFoundError:
        return ""


def exit_reason(output: str) -> ExitReason:
    """What `output`, all that a VMM wrote to standard error, says of its end."""
    requests = _REQUEST.findall(output)
    if requests:
        return _REASONS.get(requests[-1], ExitReason.DIED)

    stopped = _SIGNALLED.search(output) or _KILLED in output.splitlines()
    return ExitReason.STOPPED if stopped else ExitReason.DIED
