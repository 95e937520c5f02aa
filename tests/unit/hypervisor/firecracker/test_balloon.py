"""A balloon takes what the guest can spare, and is let go whatever happens."""

from __future__ import annotations

import asyncio

import pytest

from banger.hypervisor.firecracker import balloon


class Guest:
    """Gives `pace` MiB at each look, and not more than it has to `spare`."""

    def __init__(self, spare: int, pace: int = 40) -> None:
        self.spare = spare
        self.pace = pace
        self.taken = 0
        self.aims: list[int] = []

    async def aim(self, mib: int) -> None:
        self.aims.append(mib)

    async def look(self) -> int:
        self.taken = min(self.taken + self.pace, self.spare, self.aims[-1])
        return self.taken


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balloon, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(balloon, "STANDSTILL_SECONDS", 0.05)


async def test_it_takes_what_it_is_to_take_and_gives_it_back() -> None:
    guest = Guest(spare=500)
    assert await balloon.squeeze(guest.aim, guest.look, 300) == 300
    assert guest.aims == [300, 0]


async def test_a_guest_that_has_less_gives_what_it_has() -> None:
    guest = Guest(spare=130)
    assert await balloon.squeeze(guest.aim, guest.look, 300) == 130
    assert guest.aims == [300, 0]


async def test_one_that_never_comes_to_an_end_is_left_in_peace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(balloon, "LONGEST_SECONDS", 0.1)
    guest = Guest(spare=10**9, pace=1)
    assert 0 < await balloon.squeeze(guest.aim, guest.look, 10**9) < 1000
    assert guest.aims[-1] == 0


async def test_cancelled_it_is_let_go() -> None:
    guest = Guest(spare=10**9, pace=1)
    squeezing = asyncio.create_task(balloon.squeeze(guest.aim, guest.look, 10**9))
    await asyncio.sleep(0.02)

    squeezing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await squeezing

    assert guest.aims == [10**9, 0]
