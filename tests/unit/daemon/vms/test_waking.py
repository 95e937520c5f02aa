"""A guest's clock is the host's, however long the request that sets it was on its way."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from contextlib import AbstractContextManager, nullcontext

import msgspec
import pytest

from banger.channel.requests import Answer, Identity, Request
from banger.daemon.vms.machine import A
from banger.daemon.vms.waking import CLOCK_SECONDS, TRIES, assume

LONG = 3 * CLOCK_SECONDS


class SlowGuest:
    """Has its clock from each request, after what is left of `delays`; without any, at once."""

    def __init__(self, *delays: float) -> None:
        self.delays = deque(delays)
        self.told: list[Identity] = []

    async def ask(
        self,
        request: Request,
        answer: type[A],
        *,
        patience: float = 0.0,
        timeout: float | None = None,
    ) -> A:
        del patience, timeout
        assert isinstance(request, Identity)
        assert issubclass(answer, Answer)
        self.told.append(request)
        if self.delays:
            await asyncio.sleep(self.delays.popleft())

        boot = "0" * 36
        said = {"version": 1, "boot_id": boot, "uptime": 1.0, "clock": request.clock}
        return msgspec.convert({**said, "hostname": "guest"}, answer)

    def mark_aligned(self, streams: object = None) -> None:
        """Nothing: this guest has no frames."""

    def aligned(self) -> bool:
        return True

    def held(self) -> AbstractContextManager[tuple[int, ...]]:
        return nullcontext(())


async def wake(guest: SlowGuest) -> None:
    await assume(guest, Identity(hostname="dev", entropy="ab"), patience=1.0, timeout=1.0)


async def test_a_guest_that_answers_at_once_is_asked_once() -> None:
    guest = SlowGuest()
    await wake(guest)
    (told,) = guest.told
    assert told.hostname == "dev"


async def test_a_clock_that_came_late_is_set_again_and_nothing_else_is() -> None:
    guest = SlowGuest(LONG, LONG)
    await wake(guest)
    first, *again = guest.told
    clocks = [told.clock or 0 for told in guest.told]
    assert first.hostname == "dev"
    assert len(again) == 2
    assert [msgspec.structs.replace(told, clock=None) for told in again] == [Identity()] * 2
    assert all(after - before >= LONG * 1e9 for before, after in itertools.pairwise(clocks))


async def test_a_guest_that_is_always_late_goes_on_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guest = SlowGuest(*[LONG] * (TRIES + 1))
    with caplog.at_level(logging.WARNING):
        await wake(guest)

    assert len(guest.told) == TRIES + 1
    assert "late" in caplog.text
