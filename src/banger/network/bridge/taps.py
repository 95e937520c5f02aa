"""The pool of taps as a state machine: what there is, who has it, what is to be done next.

    making -> idle -> given -> leaving -> (gone)

It does nothing itself: `plan` says what to make and remove, and is told how that went. A tap serves
one VM and is then removed, so that nothing of a guest (queued packets, learnt addresses, a VMM that
still holds it) is ever met by another. What is idle has no owner and survives in the kernel alone;
after a crash `adopt` finds it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PREFIX = "tap-fc-"
# Linux: BR_MAX_PORTS is 1024. What is left over is for ports that are not ours.
MOST = 1000

_NUMBERED = re.compile(PREFIX + r"(\d{1,8})", re.ASCII)
_NUMBERS = 10**8
# Those who wait get theirs when a batch is done.
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Found:
    """A tap that exists. One is `pristine` when no VMM ever used it and it is on our bridge."""

    name: str
    pristine: bool


@dataclass(frozen=True, slots=True)
class Work:
    """What to do now; its names count as being done until `made`, `removed` or `failed` is told."""

    make: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.make or self.remove)


class TapPool:
    """Keeps `target` taps idle beyond those that are given out, and at most `most` in all."""

    def __init__(self, target: int, most: int = MOST) -> None:
        self._target = target
        self._most = most
        self._next = 0
        self._making: set[str] = set()
        self._idle: dict[str, None] = {}
        self._given: dict[str, str] = {}
        self._leaving: set[str] = set()
        self._removing: set[str] = set()

    @property
    def idle(self) -> int:
        """How many can be taken at once."""
        return len(self._idle)

    @property
    def full(self) -> bool:
        """Whether there is none for another owner until some are given back."""
        return self._total >= self._most and not self._idle and not self._making

    @property
    def pressing(self) -> bool:
        """Whether the next owner would have to wait, or one waits for its tap to be gone."""
        return not self._idle or bool(self._leaving)

    def knows(self, name: str) -> bool:
        """Whether `name` is, or may be, still there."""
        return any(
            name in state
            for state in (self._making, self._idle, self._given, self._leaving, self._removing)
        )

    def adopt(self, found: Iterable[Found], owners: Mapping[str, str]) -> None:
        """Start from what exists: `owners` (tap to VM) have theirs, the rest is idle or goes.

        Only before the first `plan`.
        """
        for tap in found:
            match = _NUMBERED.fullmatch(tap.name)
            if match is not None:
                self._next = max(self._next, int(match[1]) + 1)

            if tap.name in owners:
                self._given[tap.name] = owners[tap.name]
            elif tap.pristine and len(self._idle) < self._target:
                self._idle[tap.name] = None
            else:
                self._leaving.add(tap.name)

    def take(self, owner: str) -> str | None:
        """A tap for `owner`, the one it has if it has one; None when it has to wait."""
        for name, holder in self._given.items():
            if holder == owner:
                return name

        if not self._idle:
            return None

        name = next(iter(self._idle))
        del self._idle[name]
        self._given[name] = owner
        return name

    def give_back(self, name: str) -> None:
        """`name` will not be used again; nothing happens if it is not given out."""
        if self._given.pop(name, None) is not None:
            self._leaving.add(name)

    def plan(self, waiting: int = 0) -> Work:
        """What to do so that `waiting` owners get theirs and the pool is full again."""
        wanted = self._target + waiting - len(self._idle) - len(self._making)
        room = self._most - self._total
        make = tuple(self._new_name() for _ in range(min(wanted, room, _BATCH)))
        remove = tuple(sorted(self._leaving))
        self._making.update(make)
        self._leaving.clear()
        self._removing.update(remove)
        return Work(make, remove)

    def made(self, names: Iterable[str]) -> None:
        """`names`, which were planned, exist."""
        for name in names:
            self._making.remove(name)
            self._idle[name] = None

    def removed(self, names: Iterable[str]) -> None:
        """`names`, which were planned, are gone."""
        self._removing.difference_update(names)

    def failed(self, names: Iterable[str]) -> None:
        """Nobody knows how much of what was planned for `names` was done: they are to go."""
        names = set(names)
        self._making -= names
        self._removing -= names
        self._leaving |= names

    @property
    def _total(self) -> int:
        states = (self._making, self._idle, self._given, self._leaving, self._removing)
        return sum(len(state) for state in states)

    def _new_name(self) -> str:
        while self.knows(name := f"{PREFIX}{self._next % _NUMBERS}"):
            self._next += 1

        self._next += 1
        return name
