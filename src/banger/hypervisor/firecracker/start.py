"""Starting a VMM: all of it, or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from pathlib import Path

from banger.api.errors import BangerError, ErrorCode, PermanentError
from banger.api.sizes import MIB
from banger.channel import vsock
from banger.host.process import ProcessRef
from banger.hypervisor.base import LaunchPlan, MemoryImage, VMMHandle
from banger.hypervisor.firecracker import api, config, failures, jails, record
from banger.privileged.base import PrivilegedOps
from banger.privileged.ops import API_SOCKET

# How long a VMM whose socket is there may take to listen on it.
_LISTEN_SECONDS = 2.0

log = logging.getLogger(__name__)


async def start(ops: PrivilegedOps, plan: LaunchPlan, program: config.Program) -> VMMHandle:
    """The VMM of `plan`. See `Hypervisor.launch`."""
    _check(plan)
    # A jail is used once: what an earlier VMM left in it is no other's.
    jail = f"{plan.vm_id}-{secrets.token_hex(4)}"
    restores = plan.restore is not None
    code = ErrorCode.RESTORE_FAILED if restores else ErrorCode.LAUNCH_FAILED
    try:
        _prepare(plan, jail, program)
        child = await ops.call(config.launch_request(plan, jail, program))
        with failures.explained(code, "restoring the guest" if restores else "starting the VM"):
            async with api.connected(plan.run_dir, patience=_LISTEN_SECONDS) as connection:
                for setting in config.settings(plan):
                    await connection.put(setting)

    except BaseException:
        await asyncio.shield(_take_back(ops, plan.run_dir, jail))
        raise
    process = ProcessRef(pid=child.pid, start_time=child.start_time)
    return jails.handle_of(process, plan.run_dir, program.firecracker)


def _check(plan: LaunchPlan) -> None:
    if plan.memory % MIB:
        raise PermanentError(
            ErrorCode.LAUNCH_FAILED,
            "Firecracker gives its guests whole MiB of memory",
            hint="set another size: banger vm set --memory",
        )

    if plan.restore is not None and not _holds(plan.restore, plan.memory):
        raise PermanentError(
            ErrorCode.RESTORE_FAILED,
            f"{plan.restore.directory} does not hold the memory of a guest with"
            f" {plan.memory} bytes",
            hint="it was removed or changed; start the VM without it",
        )


def _holds(image: MemoryImage, memory: int) -> bool:
    try:
        return image.memory.stat().st_size == memory and image.state.exists()
    except OSError:
        return False


def _prepare(plan: LaunchPlan, jail: str, program: config.Program) -> None:
    _remove_sockets(plan.run_dir)
    plan.console_log.touch(mode=0o600)
    saving = config.saving_directory(plan)
    saving.mkdir(mode=0o700, exist_ok=True)
    for name in (record.METRICS, record.LOG):
        (plan.run_dir / name).touch(mode=0o600)

    noted = record.Record(
        jail=jail,
        firecracker=program.firecracker,
        console=str(plan.console_log),
        said=plan.console_log.stat().st_size,
        saving=str(saving),
        memory=plan.memory,
        disks={disk.serial: str(disk.path) for disk in plan.disks},
    )
    record.write(plan.run_dir, noted)


async def _take_back(ops: PrivilegedOps, run_dir: Path, jail: str) -> None:
    try:
        await jails.evict(ops, jail)
    except BangerError as error:
        # The record stays, so `find` knows where to look.
        log.warning("what was started in jail %s stays for now: %s", jail, error)
        return

    with contextlib.suppress(OSError):
        _remove_sockets(run_dir)
        record.remove(run_dir)


def _remove_sockets(run_dir: Path) -> None:
    for name in (API_SOCKET, vsock.SOCKET):
        (run_dir / name).unlink(missing_ok=True)
