"""Whether a guest's processors run: QEMU's RunState (qapi/run-state.json) and how to change it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from banger.hypervisor.qemu.qmp import ANSWER_SECONDS, Qmp, Refused

IO_ERROR = "io-error"

# After `migrate`, the first for a moment only.
_SAVED = ("finish-migrate", "postmigrate")

# Stopped by somebody, or restored and not let go on yet.
_STILL = ("paused", "prelaunch", *_SAVED)

# What `cont` says in the moment between the last byte of a stream and the end of the migration, of
# which there is no event.
_NOT_YET = "finalized"
_NOT_YET_SECONDS = 0.001


class _Status(msgspec.Struct, frozen=True):
    status: str


async def status(qmp: Qmp) -> str:
    """The RunState."""
    return (await qmp.ask("query-status", _Status)).status


async def stands_still(qmp: Qmp) -> bool:
    """Whether the guest does not run because it was told so."""
    return await status(qmp) in _STILL


async def pause(qmp: Qmp) -> None:
    """Stop the processors, and finish what disks are doing. Nothing if they stand still."""
    if await status(qmp) == IO_ERROR:
        # Otherwise it would go on being the state, and whoever sees it would let the guest go on.
        # What could not be written is tried again when it does.
        await _blink(qmp)
    else:
        await qmp.run("stop")


async def go_on(qmp: Qmp) -> None:
    """Let the guest run, from any state in which it can."""
    await _once_settled(qmp, lambda: qmp.run("cont"))


async def settle(qmp: Qmp) -> None:
    """Make a guest that was saved one that is paused: its disks are in use again.

    There is no way but to let it run for a moment.
    """
    if await status(qmp) in _SAVED:
        await _once_settled(qmp, lambda: _blink(qmp))


async def _once_settled(qmp: Qmp, act: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(ANSWER_SECONDS):
        while not await _done(act):  # noqa: ASYNC110, QEMU has no event for it
            await asyncio.sleep(_NOT_YET_SECONDS)


async def _done(act: Callable[[], Awaitable[object]]) -> bool:
    try:
        await act()
    except Refused as refusal:
        if _NOT_YET not in refusal.reason:
            raise
        return False
    return True


async def _blink(qmp: Qmp) -> None:
    # In one go: QEMU's main loop does the second right after the first.
    going, stopping = qmp.send("cont"), qmp.send("stop")
    async with asyncio.timeout(ANSWER_SECONDS):
        await stopping

    await going
