"""Taps for VMs, made ahead of need: what drives the pool's state machine.

One worker does what the pool plans; whoever needs a tap takes an idle one, or waits for the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from banger.api.errors import ErrorCode, PermanentError
from banger.network.bridge.taps import Found, TapPool

_INTERFACES = Path("/sys/class/net")
# Seconds before trying again by itself what failed; whoever needs a tap does not wait for that.
_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0
# Who takes a tap is starting a VM, and has its processors to itself for so long.
_CALM_SECONDS = 2.0

log = logging.getLogger(__name__)


class Taps(Protocol):
    """Makes and removes taps on the bridge, each call all of its names. Raises BangerError."""

    async def create(self, names: tuple[str, ...]) -> None: ...

    async def delete(self, names: tuple[str, ...]) -> None: ...


@dataclass(slots=True)
class _Failures:
    """How often one kind of work failed, and how last."""

    count: int = 0
    last: Exception | None = None

    def raise_since(self, count: int) -> None:
        if self.count > count:
            assert self.last is not None
            raise self.last


class TapSupply:
    """Gives out taps and takes them back. `start` it first.

    Taps that nobody waits for are made `calm` seconds after one was taken.
    """

    def __init__(self, taps: Taps, pool: TapPool, calm: float = _CALM_SECONDS) -> None:
        self._taps = taps
        self._pool = pool
        self._calm = calm
        self._waiting = 0
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._unmade = _Failures()
        self._unremoved = _Failures()
        self._worker: asyncio.Task[None] | None = None

    def start(self, found: Iterable[Found], owners: Mapping[str, str]) -> None:
        """Begin with the taps that exist, of which `owners` (tap to VM) hold theirs; fill up."""
        self._pool.adopt(found, owners)
        self._worker = asyncio.get_running_loop().create_task(self._work())
        self._wake.set()

    async def close(self) -> None:
        """Stop; what is idle stays, and is found at the next start."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    async def acquire(self, owner: str) -> str:
        """A tap for the VM `owner`; the same one until it is released.

        Raises PermanentError(network_exhausted) when the bridge is full, or the error that kept a
        tap from being made.
        """
        before = self._unmade.count
        async with self._changed:
            while (name := self._pool.take(owner)) is None:
                self._unmade.raise_since(before)
                if self._pool.full:
                    raise _exhausted()

                await self._await_tap()

        self._wake.set()
        return name

    async def release(self, name: str) -> None:
        """Take back `name` and remove it; returns when it is gone. Not given out: fine.

        Raises the error that kept it from being removed; it is then tried again later.
        """
        before = self._unremoved.count
        self._pool.give_back(name)
        self._wake.set()
        async with self._changed:
            while self._pool.knows(name):
                self._unremoved.raise_since(before)
                await self._changed.wait()

    async def _await_tap(self) -> None:
        self._waiting += 1
        self._wake.set()
        try:
            await self._changed.wait()
        finally:
            self._waiting -= 1

    async def _work(self) -> None:
        delay = _FIRST_RETRY
        while True:
            if await self._catch_up():
                delay = _FIRST_RETRY
                await self._rest()
            else:
                with contextlib.suppress(TimeoutError):
                    # Not wait_for: before Python 3.12 that may swallow being cancelled.
                    async with asyncio.timeout(delay):
                        await self._wake.wait()

                delay = min(delay * 2, _LAST_RETRY)

            self._wake.clear()

    async def _rest(self) -> None:
        """Wait until there is work, and it is time for it."""
        await self._wake.wait()
        end = asyncio.get_running_loop().time() + self._calm
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                while not (self._waiting or self._pool.pressing):
                    self._wake.clear()
                    await self._wake.wait()

    async def _catch_up(self) -> bool:
        """Do what there is to do; whether all of it was done."""
        while work := self._pool.plan(self._waiting):
            made = await self._attempt(self._taps.create, work.make, self._pool.made, self._unmade)
            removed = await self._attempt(
                self._taps.delete, work.remove, self._pool.removed, self._unremoved
            )
            async with self._changed:
                self._changed.notify_all()

            if not (made and removed):
                return False

        return True

    async def _attempt(
        self,
        act: Callable[[tuple[str, ...]], Awaitable[None]],
        names: tuple[str, ...],
        done: Callable[[tuple[str, ...]], None],
        failures: _Failures,
    ) -> bool:
        if not names:
            return True

        try:
            await act(names)
        except Exception as error:
            # Whatever it was: those who wait hear of it, and the worker has others to serve.
            log.warning("taps: %s: %s", ", ".join(names), error)
            failures.count += 1
            failures.last = error
            self._pool.failed(names)
            return False
        done(names)
        return True


def find_taps(names: Iterable[str], bridge: str, interfaces: Path = _INTERFACES) -> list[Found]:
    """The taps `names` that exist, with what the kernel says of them (sysfs-class-net)."""
    return [
        Found(name, _pristine(interfaces / name, bridge))
        for name in names
        if (interfaces / name).exists()
    ]


def _pristine(interface: Path, bridge: str) -> bool:
    try:
        return (
            (interface / "master").resolve().name == bridge
            # A tap has a carrier while a VMM has it open, and has received what that sent.
            and _number(interface / "carrier") == 0
            and _number(interface / "statistics/rx_packets") == 0
        )
    except OSError:
        # It went away meanwhile, or is down, which ours never are.
        return False


def _number(file: Path) -> int:
    return int(file.read_text())


def _exhausted() -> PermanentError:
    return PermanentError(
        ErrorCode.NETWORK_EXHAUSTED,
        "the bridge has no room for another VM",
        hint="stop VMs that are not needed: banger vm list",
    )
