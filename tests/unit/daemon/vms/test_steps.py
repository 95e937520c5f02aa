"""Steps: forward does all or takes all back; backward tries everything and says what failed."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import CallerError, ErrorCode, OutcomeUnknown, PermanentError
from banger.daemon.vms.steps import backward, forward

STEP_COUNT = 5


class Recorder:
    """A host on which every step leaves one thing, and a list of what happened to it."""

    def __init__(self) -> None:
        self.things: set[str] = set()
        self.events: list[str] = []
        self.hanging = asyncio.Event()


class Thing:
    """A step that makes one thing; `fails` says where it goes wrong."""

    def __init__(self, name: str, fails: str = "") -> None:
        self.name = name
        self.fails = fails

    async def do(self, subject: Recorder) -> None:
        subject.things.add(self.name)
        subject.events.append(f"do {self.name}")
        if self.fails == "do":
            raise CallerError(ErrorCode.PORT_TAKEN, "no")

        if self.fails == "hang":
            subject.hanging.set()
            await asyncio.Event().wait()

    async def undo(self, subject: Recorder) -> None:
        if self.fails == "undo":
            raise PermanentError(ErrorCode.TOOL_FAILED, "busy")

        subject.things.discard(self.name)
        subject.events.append(f"undo {self.name}")


def steps(**fails: str) -> list[Thing]:
    return [Thing(f"s{index}", fails.get(f"s{index}", "")) for index in range(STEP_COUNT)]


def ignore(_stage: str) -> None:
    pass


async def test_forward_announces_and_does_every_step_in_order() -> None:
    host, announced = Recorder(), list[str]()
    await forward("start", steps(), host, announce=announced.append)
    assert announced == ["s0", "s1", "s2", "s3", "s4"]
    assert host.things == {"s0", "s1", "s2", "s3", "s4"}


@given(failing=st.integers(0, STEP_COUNT - 1))
def test_a_step_that_fails_takes_back_all_in_reverse_order(failing: int) -> None:
    host = Recorder()

    async def attempt() -> None:
        with pytest.raises(CallerError):
            await forward("start", steps(**{f"s{failing}": "do"}), host, announce=ignore)

    asyncio.run(attempt())
    assert host.things == set()
    undone = [event for event in host.events if event.startswith("undo")]
    assert undone == [f"undo s{index}" for index in reversed(range(STEP_COUNT))]


async def test_cancellation_takes_back_what_was_done() -> None:
    host = Recorder()
    task = asyncio.create_task(forward("start", steps(s3="hang"), host, announce=ignore))
    await host.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert host.things == set()


async def test_a_hook_that_raises_fails_the_step_before_it_is_done() -> None:
    host = Recorder()

    async def hook(label: str, step: str) -> None:
        if (label, step) == ("start", "s2"):
            raise PermanentError(ErrorCode.INTERNAL, "injected")

    with pytest.raises(PermanentError, match="injected"):
        await forward("start", steps(), host, announce=ignore, hook=hook)

    assert "do s2" not in host.events
    assert host.things == set()


async def test_backward_tries_every_step_and_names_the_one_that_failed() -> None:
    host = Recorder()
    host.things = {"s0", "s1", "s2"}
    with pytest.raises(OutcomeUnknown, match="s1: busy"):
        await backward(steps(s1="undo"), host)

    assert host.things == {"s1"}


async def test_backward_repeated_finishes_what_failed_before() -> None:
    host, list_of_steps = Recorder(), steps(s1="undo")
    host.things = {"s0", "s1"}
    with pytest.raises(OutcomeUnknown):
        await backward(list_of_steps, host)

    list_of_steps[1].fails = ""
    await backward(list_of_steps, host)
    assert host.things == set()
