"""Firecracker's own words for what it does not do, as banger's errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from banger.api.errors import BangerError, ErrorCode, OutcomeUnknown, PermanentError
from banger.host.files import disk_full
from banger.hypervisor.firecracker.api import RefusedError

_KVM = re.compile(r"\bkvm\b", re.IGNORECASE)
_FULL = re.compile(r"no space left|quota exceeded", re.IGNORECASE)
_MEMORY = re.compile(r"cannot allocate memory|\(os error 12\)", re.IGNORECASE)
_TAP = re.compile(r"\btap\b", re.IGNORECASE)
_LONGEST = 300


@contextlib.contextmanager
def explained(code: ErrorCode, what: str) -> Iterator[None]:
    """Turn what comes of talking to a Firecracker while doing `what` into banger's errors."""
    try:
        yield
    except RefusedError as refusal:
        raise known(refusal.reason) or _not_done(code, what, refusal.reason) from refusal
    except ConnectionError as error:
        raise _not_done(code, what, str(error)) from error
    except TimeoutError as error:
        raise OutcomeUnknown(
            code,
            f"cannot tell whether {what} worked: Firecracker does not answer",
            hint="the host may be overloaded: see banger doctor, or stop the VM: banger vm stop",
        ) from error


def known(reason: str) -> BangerError | None:
    """The error for a refusal that says something about the host."""
    if _FULL.search(reason):
        return disk_full("running the VM")

    if _MEMORY.search(reason):
        return PermanentError(
            ErrorCode.INSUFFICIENT_MEMORY,
            "the host does not have the memory this VM asks for",
            hint="ask for less: --memory, or stop a VM: banger vm stop",
        )

    if _KVM.search(reason):
        return PermanentError(
            ErrorCode.UNSUPPORTED_HOST,
            f"Firecracker cannot use KVM: {_short(reason)}",
            hint="see: banger doctor",
        )

    if _TAP.search(reason):
        return PermanentError(
            ErrorCode.LAUNCH_FAILED,
            f"Firecracker cannot use the VM's tap: {_short(reason)}",
            hint="see who has it: ip link; then start the VM again",
        )

    return None


def _not_done(code: ErrorCode, what: str, reason: str) -> PermanentError:
    return PermanentError(code, f"{what} did not work: {_short(reason)}", hint="see: banger doctor")


def _short(reason: str) -> str:
    return "".join(filter(str.isprintable, reason))[:_LONGEST]
