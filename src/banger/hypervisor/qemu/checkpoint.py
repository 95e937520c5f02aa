"""A guest at one moment: written to a stream while it stands still, and loaded from one.

QEMU's live migration (docs/devel/migration in its source), to a file and not to another host.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from banger.host.files import disk_full, room_for, undo_unless_done
from banger.hypervisor.base import Disk
from banger.hypervisor.qemu import runstate
from banger.hypervisor.qemu.blocks import Switch
from banger.hypervisor.qemu.failures import says_full
from banger.hypervisor.qemu.qmp import ANSWER_SECONDS, Event, Qmp, Refused

_EVENTS = [{"capability": "events", "state": True}]

# QEMU keeps itself to 128 MiB/s; bytes per second.
_UNLIMITED = 2**63 - 1

# For the slowest disk and the largest guest: a limit all the same.
_STREAM_SECONDS = 1800.0


class _Migration(msgspec.Struct, frozen=True):
    """Of the event MIGRATION, and of the answer to query-migrate, what is looked at here."""

    status: str = ""
    reason: str = msgspec.field(name="error-desc", default="")


async def save(qmp: Qmp, stream: Path, overlays: Sequence[Disk], *, resume: bool) -> None:
    """`Hypervisor.save`. Raises Refused, ConnectionError, TimeoutError, and for a full disk
    PermanentError(insufficient_disk).
    """
    running = not await runstate.stands_still(qmp)
    with _new_file(stream) as descriptor:
        await _save(qmp, descriptor, Switch(qmp), overlays, running=running, resume=resume)


async def load(qmp: Qmp, state: Path) -> None:
    """Load the guest of a QEMU that was started for it; all commands go out at once.

    Raises OSError when `state` cannot be read, Refused, and ConnectionError: a QEMU that cannot
    load a guest ends.
    """
    ended = qmp.expect(_has_ended)
    descriptor = os.open(state, os.O_RDONLY | os.O_CLOEXEC)
    try:
        answers = (
            qmp.send("migrate-set-capabilities", {"capabilities": _EVENTS}),
            qmp.send("getfd", {"fdname": "state"}, descriptor=descriptor),
            qmp.send("migrate-incoming", {"uri": "fd:state"}),
        )
    finally:
        os.close(descriptor)

    for answer in answers:
        await answer

    if (await ended).read(_Migration).status != "completed":
        raise ConnectionAbortedError("QEMU ends, having said why on standard error")


async def _save(
    qmp: Qmp,
    descriptor: int,
    switch: Switch,
    overlays: Sequence[Disk],
    *,
    running: bool,
    resume: bool,
) -> None:
    try:
        await qmp.run("migrate-set-capabilities", {"capabilities": _EVENTS})
        await qmp.run("migrate-set-parameters", {"max-bandwidth": _UNLIMITED})
        await qmp.run("getfd", {"fdname": "stream"}, descriptor=descriptor)
        await switch.prepare(overlays)
        await runstate.pause(qmp)
        await switch.do()
        await _write(qmp, descriptor)
        if resume:
            await _as_before(qmp, running=running)
    except BaseException:
        await asyncio.shield(_recover(qmp, switch, running=running))
        raise


async def _write(qmp: Qmp, descriptor: int) -> None:
    ended = qmp.expect(_has_ended)
    try:
        await qmp.run("migrate", {"uri": "fd:stream"})
        async with asyncio.timeout(_STREAM_SECONDS):
            end = (await asyncio.shield(ended)).read(_Migration)
    except (asyncio.CancelledError, TimeoutError):
        await asyncio.shield(_abandon(qmp, ended))
        raise
    finally:
        ended.cancel()
    if end.status == "completed":
        return

    reason = (await qmp.ask("query-migrate", _Migration)).reason
    if says_full(reason) or _is_full(descriptor):
        raise disk_full("saving the VM's memory")

    raise Refused("GenericError", reason or "it could not write the VM's memory")


async def _abandon(qmp: Qmp, ended: asyncio.Future[Event]) -> None:
    with contextlib.suppress(Refused, ConnectionError, TimeoutError):
        await qmp.run("migrate_cancel")
        async with asyncio.timeout(ANSWER_SECONDS):
            await ended


async def _recover(qmp: Qmp, switch: Switch, *, running: bool) -> None:
    # The failure that led here says more than one that follows from it.
    with contextlib.suppress(Refused, ConnectionError, TimeoutError):
        await _as_before(qmp, running=running)
        await switch.undo()
        await qmp.run("closefd", {"fdname": "stream"})


async def _as_before(qmp: Qmp, *, running: bool) -> None:
    if running:
        await runstate.go_on(qmp)
    else:
        await runstate.settle(qmp)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[int]:
    with room_for(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with undo_unless_done(path):
            yield descriptor
    finally:
        os.close(descriptor)


def _is_full(descriptor: int) -> bool:
    """Whether the file behind `descriptor` cannot grow; QEMU does not always say why it failed."""
    try:
        os.pwrite(descriptor, bytes(1 << 16), os.lseek(descriptor, 0, os.SEEK_END))
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return False


def _has_ended(event: Event) -> bool:
    ends = ("completed", "failed", "cancelled")
    return event.name == "MIGRATION" and event.read(_Migration).status in ends
