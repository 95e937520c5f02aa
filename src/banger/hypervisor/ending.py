"""Waiting for the end of a VMM process, at no cost and not for ever."""

from __future__ import annotations

import asyncio

from banger.api.errors import ErrorCode, OutcomeUnknown
from banger.host import process

# SIGKILL works at once, except on a process that waits for a disk that does not answer.
KILL_SECONDS = 10.0


async def ended(child: process.ProcessRef, timeout: float) -> bool:
    """Whether `child` has ended within `timeout` seconds; then nothing of it is left."""
    over = asyncio.Event()
    unwatch = process.on_exit(child, over.set)
    try:
        async with asyncio.timeout(timeout):
            await over.wait()
    except TimeoutError:
        return False
    finally:
        unwatch()
    return True


async def gone(child: process.ProcessRef, timeout: float) -> bool:
    """Whether `child` has ended within `timeout` seconds, and does not stay behind as a zombie."""
    over = await ended(child, timeout)
    if over:
        process.reap(child.pid)

    return over


async def killed(child: process.ProcessRef) -> None:
    """Wait for the end of what was sent SIGKILL. Raises OutcomeUnknown(internal) if none comes."""
    if not await gone(child, KILL_SECONDS):
        raise OutcomeUnknown(
            ErrorCode.INTERNAL,
            f"process {child.pid} does not end, not even on SIGKILL",
            hint="a disk of the host may be failing: see dmesg",
        )
