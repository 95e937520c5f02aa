"""Which programs the agent keeps after a reset, and how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.guest.agent.loop import Loop
from banger.guest.agent.process import Process
from banger.guest.agent.resuming import KEEP_SECONDS, Journal, Kept
from banger.guest.agent.wire import AgentError


class Clock:
    """A loop whose timers go off when they are told to."""

    def __init__(self) -> None:
        self.timers: dict[int, Callable[[], None]] = {}

    def after(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        assert seconds == KEEP_SECONDS
        number = len(self.timers)
        self.timers[number] = action

        def cancel() -> None:
            del self.timers[number]

        return cancel

    def ring(self) -> None:
        for action in list(self.timers.values()):
            action()


class Program:
    def __init__(self, token: str) -> None:
        self.token = token
        self.abandoned = 0

    def abandon(self) -> None:
        self.abandoned += 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kept(clock: Clock) -> Kept:
    return Kept(cast("Loop", clock))


def program(kept: Kept, token: str) -> tuple[Program, Process]:
    fake = Program(token)
    kept.programs[token] = cast("Process", fake)
    return fake, cast("Process", fake)


def test_a_program_nobody_asks_for_ends_after_a_while(kept: Kept, clock: Clock) -> None:
    fake, one = program(kept, "one")
    assert kept.reset(one)
    assert fake.abandoned == 0

    clock.ring()

    assert fake.abandoned == 1
    assert not kept.programs
    assert not kept.reset(one)


def test_one_that_was_asked_for_goes_on(kept: Kept, clock: Clock) -> None:
    fake, one = program(kept, "one")
    kept.reset(one)
    kept.found("one")

    clock.ring()

    assert fake.abandoned == 0
    assert kept.reset(one)


def test_one_without_a_token_is_not_kept(kept: Kept) -> None:
    assert not kept.reset(cast("Process", Program("")))


def test_one_whose_stream_has_ended_is_not_known_any_more(kept: Kept, clock: Clock) -> None:
    fake, one = program(kept, "one")
    kept.forget(one)
    assert not kept.reset(one)
    assert fake.abandoned == 0
    assert not clock.timers


def test_a_copy_of_the_guest_gives_up_what_only_its_original_is_asked_for(
    kept: Kept, clock: Clock
) -> None:
    waiting, one = program(kept, "waiting")
    unaware, other = program(kept, "unaware")
    kept.reset(one)

    kept.give_up()

    assert (waiting.abandoned, unaware.abandoned) == (1, 0)
    # It hears of the reset later.
    assert not kept.reset(other)
    assert not clock.timers


@given(st.lists(st.tuples(st.binary(max_size=20), st.integers(0, 20))), st.integers(-5, 500))
def test_what_did_not_arrive_is_known_from_the_last_credit_on(
    steps: list[tuple[bytes, int]], received: int
) -> None:
    journal, sent, dealt_with = Journal(), b"", 0
    for data, credit in steps:
        journal.data += data
        sent += data
        journal.dealt_with(credit)
        dealt_with = min(dealt_with + credit, len(sent))

    if dealt_with <= received <= len(sent):
        assert journal.after(received) == sent[received:]
    else:
        with pytest.raises(AgentError):
            journal.after(received)
