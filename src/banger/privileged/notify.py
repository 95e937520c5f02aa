"""Telling systemd how a service is (sd_notify(3)); standard library only, for both services."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send `state` (such as `READY=1`) to systemd, if this is a service of its that should."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.sendto(state.encode(), address.replace("@", "\0", 1))


def watchdog_seconds() -> float | None:
    """How often to say `WATCHDOG=1`: half of what systemd waits (sd_watchdog_enabled(3)).

    None when it does not wait for that, or not of this process.
    """
    limit = os.environ.get("WATCHDOG_USEC", "")
    if not limit.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(
        os.getpid()
    ):
        return None

    return max(0.1, int(limit) / 2_000_000)
