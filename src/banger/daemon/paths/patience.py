"""A root helper that restarts is waited for: nobody's VM fails because of an upgrade."""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar

from banger.api.errors import BangerError, ErrorCode, OutcomeUnknown, TransientError
from banger.privileged import ops
from banger.privileged.base import PrivilegedOps

R = TypeVar("R")

PATIENCE_SECONDS = 20.0
_PAUSE_SECONDS = 0.2

# What may be asked again when nobody knows whether it was done: it is done once, however often.
_REPEATABLE = (
    ops.EnsureBridge,
    ops.CreateTaps,
    ops.DeleteTaps,
    ops.ApplyPolicy,
    ops.RouteResolver,
    ops.RemoveSnapshot,
    ops.CheckSnapshot,
    ops.ResolveBinaries,
    ops.GrantSocket,
    ops.RemoveJail,
    ops.FindProcess,
    ops.ListOwned,
)


class Patient:
    """`PrivilegedOps` that asks again for a while when the helper is not there."""

    def __init__(self, inner: PrivilegedOps, patience: float = PATIENCE_SECONDS) -> None:
        self._inner = inner
        self._patience = patience

    async def call(self, request: ops.Request[R]) -> R:
        """See PrivilegedOps.call."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return await self._inner.call(request)
            except (TransientError, OutcomeUnknown) as error:
                if not _worth_repeating(request, error) or time.monotonic() > deadline:
                    raise

            await asyncio.sleep(_PAUSE_SECONDS)


def _worth_repeating(request: ops.Request[R], error: BangerError) -> bool:
    if error.code is not ErrorCode.HELPER_UNREACHABLE:
        return False

    return isinstance(error, TransientError) or isinstance(request, _REPEATABLE)
