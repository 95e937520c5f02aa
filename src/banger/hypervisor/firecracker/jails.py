"""Jails and who lives in them, by way of the root helper."""

from __future__ import annotations

import asyncio
from pathlib import Path

from banger.api.errors import ErrorCode, TransientError
from banger.host.process import ProcessRef, alive
from banger.hypervisor.base import VMMHandle
from banger.hypervisor.ending import killed
from banger.hypervisor.firecracker.record import Record
from banger.hypervisor.identity import command_line_of, process_of
from banger.privileged.base import PrivilegedOps
from banger.privileged.ops import API_SOCKET, FindProcess, RemoveJail, Signal, SignalProcess

# How long the jailer may be at work for a jail in which nobody was found.
_BUSY_ATTEMPTS, _BUSY_PAUSE = 100, 0.05


def handle_of(process: ProcessRef, run_dir: Path, firecracker: str) -> VMMHandle:
    """The VMM of `run_dir`, which is `process`."""
    return VMMHandle(
        pid=process.pid,
        start_time=process.start_time,
        executable=firecracker,
        run_dir=str(run_dir),
        accelerator="kvm",
    )


def lives(handle: VMMHandle) -> bool:
    """Whether that process runs, and is a Firecracker of ours."""
    words = " ".join(command_line_of(handle.pid))
    return f"--api-sock /run/{API_SOCKET}" in words and alive(process_of(handle))


async def find(ops: PrivilegedOps, record: Record, run_dir: Path) -> VMMHandle | None:
    """The live VMM of a record."""
    found = (await ops.call(FindProcess(jail=record.jail))).process
    if found is None:
        return None

    process = ProcessRef(pid=found.pid, start_time=found.start_time)
    return handle_of(process, run_dir, record.firecracker)


async def evict(ops: PrivilegedOps, jail: str) -> None:
    """End whoever lives in `jail`, or is about to, and remove it. Raises what `call` does."""
    for _ in range(_BUSY_ATTEMPTS):
        found = (await ops.call(FindProcess(jail=jail))).process
        if found is not None:
            await ops.call(SignalProcess(jail=jail, process=found, signal=Signal.KILL))
            await killed(ProcessRef(pid=found.pid, start_time=found.start_time))

        try:
            await ops.call(RemoveJail(jail=jail))
        except TransientError as error:
            if error.code is not ErrorCode.HELPER_BUSY:
                raise
        else:
            return

        await asyncio.sleep(_BUSY_PAUSE)
