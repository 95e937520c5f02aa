"""Asking the root helper, and what its answers mean to the daemon."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from banger.api.errors import (
    BangerError,
    CallerError,
    ErrorCode,
    OutcomeUnknown,
    PermanentError,
    TransientError,
)
from banger.privileged import codec
from banger.privileged.faults import Fault, FaultCode
from banger.privileged.ops import Request

R = TypeVar("R")

# Beyond the operation's own limit: taking it back takes time too.
_GRACE_SECONDS = 30.0
_HINT = "sudo systemctl status bangerd-root; its journal has a line for every call"


class RootClient:
    """Calls may overlap. `operation` gives the id of the operation that a call is made for."""

    def __init__(self, path: Path, operation: Callable[[], str | None]) -> None:
        self._path = path
        self._operation = operation

    async def call(self, request: Request[R]) -> R:
        """See PrivilegedOps.call."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._path, limit=codec.MAX_MESSAGE)
        except OSError as error:
            raise TransientError(
                ErrorCode.HELPER_UNREACHABLE,
                f"the root helper does not answer: {error.strerror}",
                hint=_HINT,
            ) from None
        try:
            async with asyncio.timeout(request.limit + _GRACE_SECONDS):
                writer.write(codec.encode_call(request, self._operation() or ""))
                line = await reader.readline()
        except (OSError, TimeoutError, ValueError):
            line = b""
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return understand(request, line)


def understand(request: Request[R], line: bytes) -> R:
    """The result in `line`, the answer to `request`. Raises BangerError, see PrivilegedOps."""
    if not line.endswith(b"\n"):
        raise OutcomeUnknown(
            ErrorCode.HELPER_UNREACHABLE,
            f"the root helper gave no answer to {codec.name_of(request)}",
            hint=_HINT,
        )

    try:
        return cast("R", codec.decode_reply(line, request.reply))
    except Fault as fault:
        raise _error(codec.name_of(request), fault) from None


def _error(name: str, fault: Fault) -> BangerError:
    message = f"{name}: {fault.message}"
    match fault.code:
        case FaultCode.BUSY:
            return TransientError(ErrorCode.HELPER_BUSY, message)
        case FaultCode.NOT_FOUND:
            return CallerError(ErrorCode.HELPER_REFUSED, message)
        case FaultCode.TIMEOUT:
            return OutcomeUnknown(ErrorCode.HELPER_UNREACHABLE, message, hint=_HINT)
        case FaultCode.FAILED:
            return PermanentError(ErrorCode.TOOL_FAILED, message)
        case FaultCode.INTERNAL:
            return OutcomeUnknown(ErrorCode.INTERNAL, message, hint=_HINT)
        case FaultCode.REFUSED | FaultCode.BAD_REQUEST:
            return PermanentError(ErrorCode.HELPER_REFUSED, message, hint=_HINT)
