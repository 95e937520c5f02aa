"""Waiting for what another process does, without judging how long it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    """Return when `condition` holds; the test's own timeout is the limit."""
    while not condition():  # noqa: ASYNC110, what is waited for cannot set an event
        await asyncio.sleep(0.001)
