"""The disks of a VMM that runs: what they are written to, overlays put on them, chains shortened.

QEMU's block layer is a graph of named nodes. A disk's device has its serial as id, so that is how
`query-block` names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from banger.host.threads import in_thread
from banger.hypervisor.base import Disk
from banger.hypervisor.qemu.qmp import ANSWER_SECONDS, Event, Qmp, Refused

_ENDS = ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")


class _Inserted(msgspec.Struct, frozen=True):
    file: str
    node: str = msgspec.field(name="node-name")


class _Device(msgspec.Struct, frozen=True):
    qdev: str = ""
    inserted: _Inserted | None = None


class _End(msgspec.Struct, frozen=True):
    """Of the events that end a block job what is looked at here; `device` is the job's id."""

    device: str = ""
    error: str | None = None


class _Change(msgspec.Struct, frozen=True):
    """The event JOB_STATUS_CHANGE."""

    id: str
    status: str


class _Job(msgspec.Struct, frozen=True):
    id: str


async def top(qmp: Qmp, serial: str) -> Path:
    """The file that the disk is written to."""
    return Path((await _inserted(qmp))[serial].file)


class Switch:
    """Overlays that are open, and go on top of their disks all at the same moment."""

    def __init__(self, qmp: Qmp) -> None:
        self._qmp = qmp
        self._nodes: list[str] = []
        self._actions: list[Mapping[str, object]] = []

    async def prepare(self, overlays: Sequence[Disk]) -> None:
        """Open the files; nothing is written to them yet."""
        await end_jobs(self._qmp)
        disks = await _inserted(self._qmp)
        # QEMU does so when it stops the guest: the less there is left then, the shorter.
        await in_thread(_sync, [disk.file for disk in disks.values()])
        for overlay in overlays:
            node = f"{overlay.serial}.{secrets.token_hex(4)}"
            await self._qmp.run("blockdev-add", _overlay(overlay, node))
            self._nodes.append(node)
            data = {"node": disks[overlay.serial].node, "overlay": node}
            self._actions.append({"type": "blockdev-snapshot", "data": data})

    async def do(self) -> None:
        """Write to the overlays from now on. What was written to before becomes read-only."""
        if self._actions:
            await self._qmp.run("transaction", {"actions": self._actions})

    async def undo(self) -> None:
        """Close the overlays that are not in use."""
        for node in self._nodes:
            with contextlib.suppress(Refused):
                await self._qmp.run("blockdev-del", {"node-name": node})


async def flatten(qmp: Qmp, serial: str, bottom: Path) -> None:
    """Copy into the top file what lies between it and `bottom`, which is its backing file then.

    Raises Refused with QEMU's reason when it cannot. Cancelled, it returns when QEMU has stopped.
    """
    await end_jobs(qmp)
    node = (await _inserted(qmp))[serial].node
    job = f"flatten.{secrets.token_hex(4)}"
    copied = qmp.expect(lambda event: _is_copied(event, job))
    ended = qmp.expect(lambda event: event.name in _ENDS and event.read(_End).device == job)
    try:
        await _stream(qmp, node, bottom, job)
        if (await asyncio.shield(copied)).read(_Change).status == "pending":
            await _finalize(qmp, node, job)

        end = (await asyncio.shield(ended)).read(_End)
    except asyncio.CancelledError:
        await asyncio.shield(_cancel(qmp, job, ended))
        raise
    finally:
        copied.cancel()
        ended.cancel()
    if end.error is not None:
        raise Refused("GenericError", end.error)


async def end_jobs(qmp: Qmp) -> None:
    """Cancel what a banger that is no more has begun: it keeps its disk from being changed."""
    for job in await qmp.ask("query-jobs", list[_Job]):
        await _cancel(qmp, job.id, qmp.expect(lambda event: event.name in _ENDS))


async def _stream(qmp: Qmp, node: str, bottom: Path, job: str) -> None:
    arguments = {
        "job-id": job,
        "device": node,
        "base": str(bottom),
        "backing-file": str(bottom),
        "auto-finalize": False,
    }
    await qmp.run("block-stream", arguments)


async def _finalize(qmp: Qmp, node: str, job: str) -> None:
    # What was copied may still be found by tables in QEMU's memory alone: killed after it has named
    # the new backing file, it would have lost that.
    await qmp.run("human-monitor-command", {"command-line": f"qemu-io {node} flush"})
    await qmp.run("job-finalize", {"id": job})


async def _cancel(qmp: Qmp, job: str, ended: asyncio.Future[Event]) -> None:
    # A job that has ended is none that can be cancelled; a VMM that has ended has no jobs.
    with contextlib.suppress(Refused, ConnectionError, TimeoutError):
        await qmp.run("block-job-cancel", {"device": job})
        async with asyncio.timeout(ANSWER_SECONDS):
            await ended


def _is_copied(event: Event, job: str) -> bool:
    if event.name != "JOB_STATUS_CHANGE":
        return False

    change = event.read(_Change)
    return change.id == job and change.status in ("pending", "aborting")


async def _inserted(qmp: Qmp) -> dict[str, _Inserted]:
    devices = await qmp.ask("query-block", list[_Device])
    return {device.qdev: device.inserted for device in devices if device.inserted is not None}


def _sync(files: list[str]) -> None:
    for file in files:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def _overlay(disk: Disk, node: str) -> dict[str, object]:
    """As in args.py; what it lies over, QEMU has open already."""
    return {
        "driver": disk.format,
        "node-name": node,
        "discard": "unmap",
        "cache": {"direct": False, "no-flush": False},
        "backing": None,
        "file": {
            "driver": "file",
            "filename": str(disk.path),
            "aio": "threads",
            "discard": "unmap",
            "locking": "on",
        },
    }
