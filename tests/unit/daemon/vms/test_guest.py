"""What a guest's agent is asked for, and what is made of silence, new beginnings and ends."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from banger.api.errors import (
    BangerError,
    ErrorCode,
    OutcomeUnknown,
    PermanentError,
    TransientError,
)
from banger.channel.requests import Answer, Health, PowerOff, Request
from banger.daemon.vms import guest
from banger.host.process import reference
from banger.hypervisor.base import VMMHandle

A = TypeVar("A", bound=Answer)

BOOTS = [str(uuid.UUID(int=number)) for number in range(3)]


def health(boot: int) -> dict[str, Any]:
    return {"version": 1, "boot_id": BOOTS[boot], "uptime": 1.0, "clock": 0, "hostname": "guest"}


def lost() -> OutcomeUnknown:
    return OutcomeUnknown(ErrorCode.STREAM_LOST, "the agent has begun anew")


def unreachable() -> TransientError:
    return TransientError(ErrorCode.AGENT_UNREACHABLE, "there is no way into the guest")


def silent() -> TransientError:
    return TransientError(ErrorCode.GUEST_TIMEOUT, "the guest's agent does not answer")


class Script:
    """An agent that answers, or fails, as it was told, and then does not answer any more."""

    def __init__(self, *outcomes: dict[str, Any] | BangerError) -> None:
        self.outcomes = deque(outcomes)
        self.asked: list[Request] = []

    async def ask(
        self,
        request: Request,
        answer: type[A],
        *,
        patience: float = 0.0,
        timeout: float | None = None,
    ) -> A:
        del patience, timeout
        self.asked.append(request)
        if not self.outcomes:
            await asyncio.Event().wait()

        outcome = self.outcomes.popleft()
        if isinstance(outcome, BangerError):
            raise outcome

        return msgspec.convert(outcome, answer)

    def aligned(self) -> bool:
        return False

    def held(self) -> AbstractContextManager[tuple[int, ...]]:
        return nullcontext(())

    def mark_aligned(self, streams: Iterable[int] | None = None) -> None:
        """Not looked at."""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_RETRY_SECONDS", "_PACE_SECONDS", "_FIRST_PAUSE", "_LAST_PAUSE"):
        monkeypatch.setattr(guest, name, 0.0)


async def boots_told(agent: Script, *, known: int | None = None) -> list[str]:
    """What is told until the VMM ends."""
    told: list[str] = []

    async def tell(boot_id: str) -> None:
        told.append(boot_id)

    await guest.follow_boots(agent, None if known is None else BOOTS[known], tell)
    return told


async def test_each_boot_is_told_once_and_the_next_question_excepts_it() -> None:
    agent = Script(health(1), lost(), health(2), unreachable())

    assert await boots_told(agent, known=0) == [BOOTS[1], BOOTS[2]]
    assert agent.asked == [Health(other_than=BOOTS[n]) for n in (0, 1, 1, 2)]


async def test_a_guest_that_is_silent_for_a_while_is_asked_again() -> None:
    agent = Script(silent(), silent(), health(1), unreachable())

    assert await boots_told(agent, known=0) == [BOOTS[1]]


async def test_an_agent_that_does_not_understand_the_question_is_left_alone() -> None:
    agent = Script(health(0))

    assert await boots_told(agent, known=0) == []
    assert len(agent.asked) == 1


async def test_a_guest_that_talks_nonsense_is_not_followed() -> None:
    with pytest.raises(PermanentError):
        await boots_told(Script(PermanentError(ErrorCode.AGENT_PROTOCOL, "nonsense")))


@pytest.fixture
async def vmm(tmp_path: Path) -> AsyncIterator[VMMHandle]:
    """A process that ends when its standard input does."""
    process = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
    found = reference(process.pid)
    assert found is not None
    assert process.stdin is not None
    handle = VMMHandle(
        pid=found.pid, start_time=found.start_time, executable="", run_dir=str(tmp_path),
        accelerator="tcg",
    )  # fmt: skip
    asyncio.get_running_loop().call_later(0.05, process.stdin.close)
    yield handle
    await process.wait()


@pytest.mark.parametrize("outcome", [{}, lost()], ids=["answered", "ended before the answer"])
async def test_a_guest_is_off_when_its_vmm_has_ended(
    vmm: VMMHandle, outcome: dict[str, Any] | BangerError
) -> None:
    agent = Script(outcome)

    assert await guest.powered_off(agent, vmm)
    assert agent.asked == [PowerOff()]


async def test_a_guest_whose_agent_is_silent_is_not_waited_for(vmm: VMMHandle) -> None:
    assert not await guest.powered_off(Script(silent()), vmm)


async def test_a_guest_that_does_not_end_is_given_up(
    vmm: VMMHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "POWEROFF_SECONDS", 0.0)

    assert not await guest.powered_off(Script({}), vmm)
