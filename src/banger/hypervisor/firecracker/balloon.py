"""Memory back from a guest: a balloon that is blown up, and let go.

The guest's driver gives the balloon pages that nothing uses, Firecracker hands them back to the
host. Afterwards the guest may use them again, and gets empty ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

# A guest that has been asked for more than it can spare gives what it has, and then no more.
STANDSTILL_SECONDS = 2.0
LONGEST_SECONDS = 60.0
_LOOK_SECONDS = 0.1


async def squeeze(
    aim: Callable[[int], Awaitable[None]], look: Callable[[], Awaitable[int]], mib: int
) -> int:
    """Have the balloon take up to `mib`, then nothing; returns what it took, in MiB.

    `aim` says how much it is to have, `look` how much it has. Raises what they do; it is let go in
    any case.
    """
    try:
        await aim(mib)
        return await _fullest(look, mib)
    finally:
        await asyncio.shield(aim(0))


async def _fullest(look: Callable[[], Awaitable[int]], mib: int) -> int:
    taken = 0
    since = time.monotonic()
    deadline = since + LONGEST_SECONDS
    while taken < mib and time.monotonic() < min(deadline, since + STANDSTILL_SECONDS):
        await asyncio.sleep(_LOOK_SECONDS)
        now = await look()
        if now > taken:
            taken, since = now, time.monotonic()

    return taken
