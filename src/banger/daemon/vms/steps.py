"""Steps: the one mechanism behind create, start, stop, delete and reconciliation.

A step does one thing to the host and can take it back. Whatever it touches is named in the VM's
row before the first step runs, so taking back needs no memory of how far the doing got: `undo` of a
step that never ran is a no-op. Going forward and failing, stopping, deleting, and cleaning up after
a crash therefore all walk the same list backwards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from banger.api.errors import BangerError, ErrorCode, OutcomeUnknown

log = logging.getLogger(__name__)

Subject = TypeVar("Subject")
Subject_contra = TypeVar("Subject_contra", contravariant=True)

# Called as (list name, step name) right before a step is done; may raise. For fault injection.
Hook = Callable[[str, str], Awaitable[None]]


class Step(Protocol[Subject_contra]):
    """One thing done to the host for one VM.

    `name` is what people see as the stage. `do` may be cancelled or killed anywhere. `undo` is
    idempotent, and right after a `do` that never ran, half ran, or ran in another process.
    """

    name: str

    async def do(self, subject: Subject_contra) -> None: ...

    async def undo(self, subject: Subject_contra) -> None: ...


async def no_hook(_list: str, _step: str) -> None:
    """The hook of a daemon that injects no faults."""


async def forward(
    label: str,
    steps: Sequence[Step[Subject]],
    subject: Subject,
    *,
    announce: Callable[[str], None],
    hook: Hook = no_hook,
) -> None:
    """Do all `steps` in order; when one fails or the caller is cancelled, undo all and re-raise."""
    try:
        for step in steps:
            announce(step.name)
            await hook(label, step.name)
            await step.do(subject)
    except BaseException:
        await asyncio.shield(backward(steps, subject))
        raise


async def backward(
    steps: Sequence[Step[Subject]],
    subject: Subject,
    *,
    label: str = "undo",
    hook: Hook = no_hook,
) -> None:
    """Undo all `steps`, last first, each tried even when another failed.

    Raises OutcomeUnknown(internal) naming what could not be undone; calling again tries again.
    """
    failures: list[str] = []
    for step in reversed(steps):
        try:
            await hook(label, step.name)
            await step.undo(subject)
        except (BangerError, OSError) as error:
            log.exception("undoing %r failed", step.name)
            failures.append(f"{step.name}: {error}")

    if failures:
        raise OutcomeUnknown(
            ErrorCode.INTERNAL,
            f"could not clean up ({'; '.join(failures)})",
            hint="repeat the command; the daemon also tries again whenever it starts",
        )
