"""Fault injection, for tests that ask what happens when banger fails or dies at a given step.

`BANGER_FAULT=<list>:<step>:<raise|kill|hang>` makes the daemon fail, kill itself with SIGKILL, or
wait for ever right before that step; `<list>` is create, start, stop or delete. Without the
variable none of this is in the path.
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

    async def hook(label: str, step: str) -> None:
        if f"{label}:{step}" != place:
            return

        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

        if action == "hang":
            await asyncio.Event().wait()

        raise PermanentError(ErrorCode.INTERNAL, f"injected fault at {place}")

    return hook
