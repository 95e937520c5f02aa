"""What an attempt came to."""

from __future__ import annotations

from collections.abc import Callable

from banger.privileged.faults import Fault, FaultCode


def fault_of(attempt: Callable[[], object]) -> FaultCode | None:
    """The code of the Fault that `attempt` raised; None when it was done."""
    try:
        attempt()
    except Fault as fault:
        return fault.code

    return None
