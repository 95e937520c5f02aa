"""The process that a VM lives as long as."""

from __future__ import annotations

from banger.api.errors import CallerError, ErrorCode
from banger.host.process import ProcessRef, reference


def holder_of(pid: int | None) -> ProcessRef | None:
    """The process `pid`, if one is named. Raises CallerError(invalid_request) if it is none."""
    if pid is None:
        return None

    holder = reference(pid)
    if holder is None:
        raise CallerError(ErrorCode.INVALID_REQUEST, f"holder_pid {pid} is no running process")

    return holder
