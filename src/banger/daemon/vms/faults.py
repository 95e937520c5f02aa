"""Fault injection, for tests that ask what happens when banger fails or dies at a given step.

`BANGER_FAULT=<list>:<step>:<raise|kill|hang|stop>` makes the daemon fail, kill itself with SIGKILL,
wait for ever, or stand still, once, until it gets SIGCONT, right before that step. `<list>` is
create, start, stop, delete, snapshot, fork, restore or suspend. Without the variable none of this
is in the path.
"""

from __future__ import annotations

import asyncio
import os
import signal

from banger.api.errors import ErrorCode, PermanentError
from banger.daemon.vms.steps import Hook, no_hook


def hook_from_environment() -> Hook:
    """The hook `BANGER_FAULT` asks for; a no-op without it."""
    wanted = os.environ.get("BANGER_FAULT", "")
    if not wanted:
        return no_hook

    place, _, action = wanted.rpartition(":")
    times = 0

    async def hook(label: str, step: str) -> None:
        nonlocal times
        if f"{label}:{step}" != place:
            return

        times += 1

        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

        if action == "stop":
            if times == 1:
                os.kill(os.getpid(), signal.SIGSTOP)

            return

        if action == "hang":
            await asyncio.Event().wait()

        raise PermanentError(ErrorCode.INTERNAL, f"injected fault at {place}")

    return hook
