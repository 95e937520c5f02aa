"""QEMU's own words for why it did not start, as banger's errors."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from banger.api.errors import (
    BangerError,
    CallerError,
    ErrorCode,
    OutcomeUnknown,
    PermanentError,
)
from banger.host.files import disk_full
from banger.hypervisor.qemu.qmp import Refused

APT_PACKAGE = "qemu-system-x86"

_FORWARD = re.compile(r"host forwarding rule '(tcp|udp):([\d.]*):(\d+)-")
_MEMORY = re.compile(r"cannot (?:set up guest memory|allocate memory)|exceeds?.*RAM", re.IGNORECASE)
_LOCK = re.compile(r'Failed to get (?:shared )?"\w+" lock')
_FULL = re.compile(r"no space left|quota exceeded", re.IGNORECASE)
_LOCKED_FILE = re.compile(r"using the image \[(.*?)\]")


def missing(program: str) -> PermanentError:
    """There is no QEMU to run VMs with."""
    return PermanentError(
        ErrorCode.HYPERVISOR_MISSING,
        f"{program} is not installed",
        hint=f"sudo apt-get install {APT_PACKAGE}",
    )


def explain(output: str, status: str, code: ErrorCode = ErrorCode.LAUNCH_FAILED) -> BangerError:
    """The error for a QEMU that ended before its guest ran.

    `output` is what it wrote to standard error; `status` how it ended, for when it said nothing;
    `code` is for reasons that have none of their own.
    """
    known = _known(output)
    if known is not None:
        return known

    what = "restore the guest" if code is ErrorCode.RESTORE_FAILED else "start"
    return PermanentError(
        code,
        f"QEMU did not {what}: {_last_line(output) or status}",
        hint="check this host with: banger doctor",
    )


@contextlib.contextmanager
def explained(code: ErrorCode, what: str) -> Iterator[None]:
    """Turn what comes of talking to a running QEMU while doing `what` into banger's errors."""
    try:
        yield
    except Refused as refusal:
        raise _known(refusal.reason) or _not_done(code, what, refusal.reason) from refusal
    except ConnectionError as error:
        raise _not_done(code, what, "the VM has ended") from error
    except TimeoutError as error:
        raise OutcomeUnknown(
            code,
            f"cannot tell whether {what} worked: QEMU does not answer",
            hint="the host may be overloaded: see banger doctor, or stop the VM: banger vm stop",
        ) from error


def says_full(reason: str) -> bool:
    """Whether QEMU's words mean that the host's disk, or a quota, is used up."""
    return _FULL.search(reason) is not None


def _not_done(code: ErrorCode, what: str, reason: str) -> PermanentError:
    return PermanentError(code, f"{what} did not work: {reason}", hint="see: banger vm list")


def _known(output: str) -> BangerError | None:
    forward = _FORWARD.search(output)
    if forward:
        protocol, address, port = forward.groups()
        return CallerError(
            ErrorCode.PORT_TAKEN,
            f"cannot listen on host port {address or '*'}:{port} ({protocol}): it is in use",
            hint=f"see who has it: ss -lnp 'sport = :{port}'; or choose another: -p HOST:GUEST",
        )
    if _MEMORY.search(output):
        return PermanentError(
            ErrorCode.INSUFFICIENT_MEMORY,
            "the host does not have the memory this VM asks for",
            hint="ask for less: --memory, or stop a VM: banger vm stop",
        )
    if _LOCK.search(output):
        return _locked(output)

    return disk_full("running the VM") if says_full(output) else None


def _locked(output: str) -> PermanentError:
    found = _LOCKED_FILE.search(output)
    disk = found[1] if found else "a disk of this VM"
    return PermanentError(
        ErrorCode.LAUNCH_FAILED,
        f"{disk} is in use by another process",
        hint=f"see which: fuser -v {disk}" if found else "see: banger doctor",
    )


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # "qemu-system-x86_64: -device x: what went wrong" says enough without the program's name.
    return re.sub(r"^[\w./-]*qemu[\w.-]*: ", "", lines[-1]) if lines else ""
