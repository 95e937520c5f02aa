"""Asking a root helper that restarts: again when that is safe, and not for ever."""

from __future__ import annotations

from typing import TypeVar

import pytest

from banger.api.errors import (
    BangerError,
    ErrorCode,
    OutcomeUnknown,
    PermanentError,
    TransientError,
)
from banger.daemon.paths.patience import Patient
from banger.privileged import ops

R = TypeVar("R")

AWAY = TransientError(ErrorCode.HELPER_UNREACHABLE, "nobody there")
LOST = OutcomeUnknown(ErrorCode.HELPER_UNREACHABLE, "no answer")
SNAPSHOT = ops.CreateSnapshot(name="fc-rootfs-0", base="/b", cow="/c", size=512)


class Failing:
    """Fails with each of `errors` in turn, and then answers."""

    def __init__(self, *errors: BangerError) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def call(self, request: ops.Request[R]) -> R:
        del request
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)

        return None  # type: ignore[return-value]


@pytest.mark.parametrize("request_", [ops.RemoveJail(jail="a"), SNAPSHOT])
async def test_a_helper_that_is_away_for_a_moment_is_waited_for(
    request_: ops.Request[object],
) -> None:
    helper = Failing(AWAY, AWAY)
    await Patient(helper).call(request_)
    assert helper.calls == 3


async def test_what_may_have_been_done_is_asked_for_again_only_if_twice_is_as_good() -> None:
    helper = Failing(LOST)
    await Patient(helper).call(ops.RemoveSnapshot(name="fc-rootfs-0"))
    assert helper.calls == 2

    with pytest.raises(OutcomeUnknown):
        await Patient(Failing(LOST)).call(SNAPSHOT)


@pytest.mark.parametrize(
    "error",
    [
        TransientError(ErrorCode.HELPER_BUSY, "busy"),
        PermanentError(ErrorCode.HELPER_REFUSED, "no"),
        OutcomeUnknown(ErrorCode.INTERNAL, "broken"),
    ],
)
async def test_what_the_helper_has_answered_stands(error: BangerError) -> None:
    with pytest.raises(type(error)):
        await Patient(Failing(error)).call(ops.ListOwned())


async def test_patience_ends() -> None:
    with pytest.raises(TransientError):
        await Patient(Failing(*[AWAY] * 1000), patience=0.0).call(ops.ListOwned())
