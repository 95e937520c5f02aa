"""How a privileged operation fails: a code from a closed list and one line."""

from __future__ import annotations

from enum import StrEnum


class FaultCode(StrEnum):
    """What the caller may conclude; the names travel in replies."""

    BAD_REQUEST = "bad_request"
    """Not understood: nothing was looked at."""
    REFUSED = "refused"
    """Understood, and it names something that is not banger's to touch. Nothing was done."""
    NOT_FOUND = "not_found"
    BUSY = "busy"
    """Something still uses it; the same request may succeed later."""
    FAILED = "failed"
    """A program or the kernel said no; what had been done was taken back."""
    TIMEOUT = "timeout"
    """It was given up half-way: the state has to be looked at."""
    INTERNAL = "internal"


class Fault(Exception):  # noqa: N818 - the word of the protocol
    """An operation that was not done, and why."""

    def __init__(self, code: FaultCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def refused(message: str) -> Fault:
    """A gate's answer."""
    return Fault(FaultCode.REFUSED, message)


def failed(message: str) -> Fault:
    """A program's or the kernel's answer."""
    return Fault(FaultCode.FAILED, message)
