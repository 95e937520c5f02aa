"""QEMU's own words for why it did not start, as banger's errors."""

from __future__ import annotations

import re

from banger.api.errors import BangerError, CallerError, ErrorCode, PermanentError

APT_PACKAGE = "qemu-system-x86"

_FORWARD = re.compile(r"host forwarding rule '(tcp|udp):([\d.]*):(\d+)-")
_MEMORY = re.compile(r"cannot (?:set up guest memory|allocate memory)|exceeds?.*RAM", re.IGNORECASE)
_LOCK = re.compile(r'Failed to get (?:shared )?"\w+" lock')
_LOCKED_FILE = re.compile(r"using the image \[(.*?)\]")


def missing(program: str) -> PermanentError:
    """There is no QEMU to run VMs with."""
    return PermanentError(
        ErrorCode.HYPERVISOR_MISSING,
        f"{program} is not installed",
        hint=f"sudo apt-get install {APT_PACKAGE}",
    )


def explain(output: str, status: str) -> BangerError:
    """The error for a QEMU that ended before its guest ran.

    `output` is what it wrote to standard error; `status` how it ended, for when it said nothing.
    """
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

    return PermanentError(
        ErrorCode.LAUNCH_FAILED,
        f"QEMU did not start: {_last_line(output) or status}",
        hint="check this host with: banger doctor",
    )


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
