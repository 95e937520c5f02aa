"""The two services as processes: who answers, what version it is, what it would take with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from banger.api.errors import BangerError, ErrorCode, OutcomeUnknown, TransientError
from banger.api.models import DaemonStatus
from banger.client.client import Client
from banger.install import layout
from banger.privileged.client import RootClient
from banger.privileged.ops import PROTOCOL, Greeting, Hello


def daemon(socket: Path = layout.SOCKET) -> Client:
    """A client of the daemon, whether it runs or not."""
    return Client(socket, timeout=10.0)


def greet_helper(socket: Path = layout.HELPER_SOCKET) -> Greeting:
    """The helper's answer. Raises BangerError, see PrivilegedOps.call."""
    return asyncio.run(RootClient(socket, lambda: None).call(Hello()))


def require_both(version: str) -> None:
    """Both answer, and are `version`. Units that have started are asked, so nothing is waited for.

    Raises OutcomeUnknown(daemon_unreachable or helper_unreachable).
    """
    try:
        greeting = greet_helper()
    except BangerError as error:
        raise OutcomeUnknown(ErrorCode.HELPER_UNREACHABLE, error.message, hint=error.hint) from None
    if (greeting.version, greeting.protocol) != (version, PROTOCOL):
        raise _other(ErrorCode.HELPER_UNREACHABLE, "helper", greeting.version, version)

    try:
        answered = daemon().version().version
    except TransientError as error:
        raise OutcomeUnknown(ErrorCode.DAEMON_UNREACHABLE, error.message, hint=error.hint) from None
    if answered != version:
        raise _other(ErrorCode.DAEMON_UNREACHABLE, "daemon", answered, version)


def status_or_none(client: Client) -> DaemonStatus | None:
    """What the daemon says of itself; None when it does not answer."""
    try:
        return client.status()
    except (BangerError, OSError):
        return None


def _other(code: ErrorCode, who: str, found: str, wanted: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        code,
        f"the {who} that answers is banger {found}, not {wanted}",
        hint="banger system status",
    )
