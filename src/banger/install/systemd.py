"""systemctl(1), for the two services."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from banger.api.errors import ErrorCode, PermanentError
from banger.host import runner

_SHOWN = ("LoadState", "ActiveState", "UnitFileState", "MainPID")
# Longer than a unit's own limit for starting.
_SECONDS = 300.0


class UnitState(msgspec.Struct, frozen=True, kw_only=True):
    """A unit: whether it runs, whether it starts with the host, and its process if it has one."""

    name: str
    loaded: bool
    active: str
    enabled: str
    pid: int | None


def booted() -> bool:
    """Whether this host runs systemd (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def require_booted() -> None:
    """Raises PermanentError(unsupported_host) where systemd does not run."""
    if not booted():
        raise PermanentError(
            ErrorCode.UNSUPPORTED_HOST,
            "services need systemd, which this host does not run",
            hint="banger works without them: banger vm run",
        )


def command(*words: str, check: bool = True) -> str:
    """Run a program of systemd's and return what it printed.

    Raises PermanentError: tool_missing; tool_failed when `check` and its status is not zero.
    """
    done = asyncio.run(runner.run(words, check=False, timeout=_SECONDS))
    if check and done.status != 0:
        raise PermanentError(ErrorCode.TOOL_FAILED, f"{' '.join(words)}: {done.complaint()}")

    return done.text


def systemctl(*words: str, check: bool = True) -> str:
    """The same for systemctl."""
    return command("systemctl", *words, check=check)


def restart(unit: str) -> None:
    """Start `unit` anew and wait until it is ready.

    Raises PermanentError(daemon_start_failed) with what it said last.
    """
    try:
        systemctl("restart", unit)
    except PermanentError:
        raise PermanentError(
            ErrorCode.DAEMON_START_FAILED,
            f"{unit} did not start: {_last_words(unit)}",
            hint=f"sudo journalctl -u {unit} has the rest",
        ) from None


def state(unit: str) -> UnitState:
    """How `unit` is; one that does not exist is not loaded."""
    shown = systemctl("show", f"--property={','.join(_SHOWN)}", unit, check=False)
    values = dict(line.partition("=")[::2] for line in shown.splitlines())
    pid = int(values.get("MainPID") or 0)
    return UnitState(
        name=unit,
        loaded=values.get("LoadState") == "loaded",
        active=values.get("ActiveState") or "unknown",
        enabled=values.get("UnitFileState") or "no",
        pid=pid or None,
    )


def _last_words(unit: str) -> str:
    said = command("journalctl", "--unit", unit, "-n", "20", "--output", "cat", check=False)
    # systemd's own lines come after the service's.
    lines = [line for line in said.splitlines() if not line.startswith((unit, "Failed", "Stopped"))]
    return lines[-1].strip() if lines else "it said nothing"
