"""Giving out taps: many at once, with failures, cancellations, and a kernel that is a set."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from banger.api.errors import ErrorCode, PermanentError, TransientError
from banger.network.bridge.supply import TapSupply, find_taps
from banger.network.bridge.taps import Found, TapPool

BROKEN = TransientError(ErrorCode.TOOL_FAILED, "the helper is gone")


class Kernel:
    """Taps as a set; refuses what it is told to."""

    def __init__(self) -> None:
        self.taps: set[str] = set()
        self.calls: list[tuple[str, ...]] = []
        self.refuse_create: Exception | None = None
        self.refuse_delete: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def create(self, names: tuple[str, ...]) -> None:
        self.calls.append(names)
        await self.gate.wait()
        if self.refuse_create is not None:
            raise self.refuse_create

        assert not set(names) & self.taps
        self.taps |= set(names)

    async def delete(self, names: tuple[str, ...]) -> None:
        await asyncio.sleep(0)
        if self.refuse_delete is not None:
            raise self.refuse_delete

        self.taps -= set(names)


@contextlib.asynccontextmanager
async def running(
    kernel: Kernel,
    target: int = 2,
    most: int = 100,
    found: tuple[Found, ...] = (),
    calm: float = 0,
) -> AsyncIterator[TapSupply]:
    supply = TapSupply(kernel, TapPool(target, most), calm)
    supply.start(found, {})
    try:
        yield supply
    finally:
        await supply.close()


async def until_idle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_it_is_warm_before_anybody_asks_and_again_afterwards() -> None:
    kernel = Kernel()
    async with running(kernel, target=4) as supply:
        await until_idle()
        assert len(kernel.taps) == 4
        kernel.gate.clear()
        assert await supply.acquire("vm") in kernel.taps
        kernel.gate.set()
        await until_idle()
        assert len(kernel.taps) == 5


async def test_it_is_made_warm_again_when_whoever_took_one_has_started() -> None:
    kernel = Kernel()
    async with running(kernel, target=4, calm=3600) as supply:
        await until_idle()
        taken = [await supply.acquire(f"vm{n}") for n in range(3)]
        await until_idle()
        assert len(kernel.taps) == 4

        await supply.release(taken[0])
        assert len(kernel.taps) == 6, "one is gone, three were made with it"

        for n in range(3, 7):
            await supply.acquire(f"vm{n}")
        await until_idle()
        assert len(kernel.taps) == 10, "the last was taken, and the next is not to wait"


async def test_sixty_four_at_once_get_one_each() -> None:
    kernel = Kernel()
    async with running(kernel) as supply:
        taps = await asyncio.gather(*(supply.acquire(f"vm{n}") for n in range(64)))

    assert len(set(taps)) == 64
    assert set(taps) <= kernel.taps
    assert len(kernel.calls) < 10, "in batches"


async def test_what_is_released_is_gone_before_release_returns() -> None:
    kernel = Kernel()
    async with running(kernel) as supply:
        tap = await supply.acquire("vm")
        await supply.release(tap)
        assert tap not in kernel.taps
        await supply.release(tap)
        assert await supply.acquire("vm") != tap


async def test_whoever_waits_hears_why_there_is_none_and_the_next_may_have_luck() -> None:
    kernel = Kernel()
    kernel.refuse_create = BROKEN
    async with running(kernel) as supply:
        await until_idle()
        with pytest.raises(TransientError, match="the helper is gone"):
            await supply.acquire("vm")
        kernel.refuse_create = None
        assert await supply.acquire("vm") in kernel.taps


async def test_even_an_error_nobody_thought_of_leaves_it_working() -> None:
    kernel = Kernel()
    kernel.refuse_create = ZeroDivisionError("a mistake of ours")
    async with running(kernel) as supply:
        with pytest.raises(ZeroDivisionError):
            await supply.acquire("vm")
        kernel.refuse_create = None
        assert await supply.acquire("vm")


async def test_what_cannot_be_removed_is_told_and_removed_later() -> None:
    kernel = Kernel()
    async with running(kernel) as supply:
        tap = await supply.acquire("vm")
        kernel.refuse_delete = BROKEN
        with pytest.raises(TransientError):
            await supply.release(tap)
        assert tap in kernel.taps
        kernel.refuse_delete = None
        await supply.release(await supply.acquire("other"))
        await until_idle()
        assert tap not in kernel.taps


async def test_trouble_with_removing_keeps_nobody_from_getting_one() -> None:
    kernel = Kernel()
    kernel.refuse_delete = BROKEN
    async with running(kernel, found=(Found("tap-fc-1", False),)) as supply:
        assert await supply.acquire("vm")


async def test_a_full_bridge_says_so() -> None:
    async with running(Kernel(), most=3) as supply:
        taps = [await supply.acquire(f"vm{n}") for n in range(3)]
        with pytest.raises(PermanentError) as refusal:
            await supply.acquire("one too many")
        assert refusal.value.code is ErrorCode.NETWORK_EXHAUSTED
        await supply.release(taps[0])
        assert await supply.acquire("one too many")


async def test_whoever_gives_up_waiting_takes_none_away() -> None:
    kernel = Kernel()
    kernel.gate.clear()
    async with running(kernel, target=1) as supply:
        waiting = asyncio.create_task(supply.acquire("impatient"))
        await until_idle()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        kernel.gate.set()
        assert await supply.acquire("a") != await supply.acquire("b")


async def test_a_restart_goes_on_with_what_is_there() -> None:
    kernel = Kernel()
    async with running(kernel, target=3) as supply:
        held = await supply.acquire("vm")
        await until_idle()
    there = set(kernel.taps)
    kernel.calls.clear()
    again = TapSupply(kernel, TapPool(3))
    again.start([Found(name, name != held) for name in sorted(there)], {held: "vm"})
    assert await again.acquire("vm") == held
    await until_idle()
    await again.close()

    assert (kernel.taps, kernel.calls) == (there, [])


def test_what_the_kernel_says_of_a_tap(tmp_path: Path) -> None:
    def tap(name: str, bridge: str, carrier: str, received: str) -> None:
        interface = tmp_path / name
        (interface / "statistics").mkdir(parents=True)
        (tmp_path / bridge).mkdir(exist_ok=True)
        (interface / "master").symlink_to(f"../{bridge}")
        (interface / "carrier").write_text(carrier)
        (interface / "statistics/rx_packets").write_text(received)

    tap("fresh", "br-fc", "0\n", "0\n")
    tap("open", "br-fc", "1\n", "0\n")
    tap("used", "br-fc", "0\n", "12\n")
    tap("strayed", "br-other", "0\n", "0\n")
    (tmp_path / "down").mkdir()

    names = ["fresh", "open", "used", "strayed", "down", "gone"]
    assert find_taps(names, "br-fc", tmp_path) == [
        Found("fresh", True),
        Found("open", False),
        Found("used", False),
        Found("strayed", False),
        Found("down", False),
    ]
