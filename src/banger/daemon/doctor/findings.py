"""How a check says what it found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from banger.api.errors import BangerError
from banger.api.models import Check, CheckStatus

Look = Callable[[], Awaitable[Check]]


def passed(name: str, summary: str, *details: str) -> Check:
    """Nothing to do."""
    return Check(name=name, status=CheckStatus.PASS, summary=summary, details=details)


def warned(name: str, summary: str, fix: str | None, *details: str) -> Check:
    """VMs work, but something is less than it could be, or soon will not work."""
    return Check(name=name, status=CheckStatus.WARN, summary=summary, details=details, fix=fix)


def failed(name: str, summary: str, fix: str | None, *details: str) -> Check:
    """VMs cannot be made or started like this."""
    return Check(name=name, status=CheckStatus.FAIL, summary=summary, details=details, fix=fix)


async def look(name: str, check: Look) -> Check:
    """The finding of `check`; what it raises is a finding too, so that the others are seen."""
    try:
        return await check()
    except BangerError as error:
        return failed(name, error.message, error.hint)
    except OSError as error:
        return failed(name, f"cannot be told: {error}", None)
