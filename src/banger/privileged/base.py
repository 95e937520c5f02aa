"""The contract between those who need something privileged done and who does it."""

from __future__ import annotations

from typing import Protocol, TypeVar

from banger.privileged.ops import Request

R = TypeVar("R")


class PrivilegedOps(Protocol):
    """Two carriers: `client.RootClient` asks the root helper, `direct.DirectOps` is root."""

    async def call(self, request: Request[R]) -> R:
        """Do `request`.

        Raises PermanentError (helper_refused, tool_failed), TransientError (helper_unreachable,
        helper_busy: nothing was done), or OutcomeUnknown(helper_unreachable) when the answer did
        not come: look before trying again, as with list_owned.
        """
