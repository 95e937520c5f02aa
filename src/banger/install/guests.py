"""Ending all guests: the daemon does, and without one they are asked as it would ask them.

So a host that shuts down while its daemon is down, for whatever reason, loses nothing either.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from banger.api.errors import BangerError, ErrorCode, OutcomeUnknown
from banger.channel.calls import GuestCalls
from banger.channel.requests import Done, PowerOff
from banger.channel.vsock import VsockChannel
from banger.client.client import Client

# As the daemon does: a guest may take this long to greet, and then to end.
_GREETING_SECONDS = 5.0
_END_SECONDS = 30.0

_LOOK_SECONDS = 0.2

# There is none, or there was one.
_NO_DAEMON = (ErrorCode.DAEMON_UNREACHABLE, ErrorCode.INTERRUPTED)


def stop_guests(client: Client, run: Path) -> None:
    """Have all VMs end, and wait for it. `run` has one directory for each that runs.

    Raises BangerError; OutcomeUnknown(guest_timeout) when there is no daemon, which would kill
    them, and not all have ended.
    """
    try:
        client.wait(client.stop_guests())
    except BangerError as error:
        if error.code not in _NO_DAEMON:
            raise
    else:
        return

    _end_all(sorted(run.iterdir()) if run.is_dir() else [])


def _end_all(run_dirs: list[Path]) -> None:
    """All at once. Raises OutcomeUnknown(guest_timeout) naming those that have not ended."""
    if not run_dirs:
        return

    with ThreadPoolExecutor(max_workers=len(run_dirs)) as pool:
        ended = list(pool.map(ended_gently, run_dirs))

    left = [path.name for path, gone in zip(run_dirs, ended, strict=True) if not gone]
    if left:
        raise OutcomeUnknown(
            ErrorCode.GUEST_TIMEOUT,
            f"the daemon does not answer, and these guests did not end: {', '.join(left)}",
            hint="sudo banger system restart, then: banger vm stop",
        )


def ended_gently(run_dir: Path) -> bool:
    """Have one guest write everything to its disks and power off; whether its VMM has ended."""
    channel = VsockChannel(run_dir)
    deadline = time.monotonic() + _GREETING_SECONDS + _END_SECONDS
    try:
        GuestCalls(channel, patience=_GREETING_SECONDS).ask(PowerOff(), Done, timeout=_END_SECONDS)
    except OutcomeUnknown:
        # The VMM may end before the answer has come out of it.
        pass
    except BangerError as error:
        return error.code is ErrorCode.AGENT_UNREACHABLE

    while _listens(channel):
        if time.monotonic() > deadline:
            return False

        time.sleep(_LOOK_SECONDS)

    return True


def _listens(channel: VsockChannel) -> bool:
    try:
        channel.connect().close()
    except BangerError as error:
        return error.code is not ErrorCode.AGENT_UNREACHABLE

    return True
