"""Starting a VMM: all of it, or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from banger.api.errors import BangerError, ErrorCode, PermanentError
from banger.channel.serial import PORTS, socket_path
from banger.host import process, runner
from banger.hypervisor.base import LaunchPlan, MemoryImage, VMMHandle
from banger.hypervisor.ending import KILL_SECONDS, ended
from banger.hypervisor.qemu import args, checkpoint, failures, postmortem, sockets
from banger.hypervisor.qemu.identity import identify
from banger.hypervisor.qemu.qmp import Qmp, Refused

# QEMU is up in 0.1 s; a host that is swapping may take long, but not for ever.
_START_SECONDS = 30.0

# In front of QEMU's command, so that every thread it makes has the policy (chrt(1), sched(7)).
_BACKGROUND = ("chrt", "--idle", "0")


@dataclass(frozen=True, slots=True)
class Program:
    """What to run guests with."""

    path: str
    accelerator: Literal["kvm", "tcg"]
    tsc_khz: int | None


async def start(plan: LaunchPlan, program: Program) -> tuple[VMMHandle, Qmp]:
    """The VMM of `plan`, and the connection to its monitor. See `Hypervisor.launch`."""
    if plan.restore is not None:
        _check(plan.restore, plan.memory)

    with _leaving_nothing(plan.run_dir):
        pid = _spawn_with_sockets(plan, program)
        return await _started(pid, plan)


def _check(image: MemoryImage, memory: int) -> None:
    # QEMU would make a memory file that is missing, and a guest out of nothing with it.
    try:
        size = image.memory.stat().st_size
    except OSError:
        size = -1
    if size == memory and image.state.exists():
        return

    raise PermanentError(
        ErrorCode.RESTORE_FAILED,
        f"{image.directory} does not hold the memory of a guest with {memory} bytes",
        hint="it was removed or changed; start the VM without it",
    )


@contextlib.contextmanager
def _leaving_nothing(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for path in (
            sockets.monitor_socket(run_dir),
            *_agent_sockets(run_dir),
            args.pidfile(run_dir),
            postmortem.log_file(run_dir),
        ):
            with contextlib.suppress(OSError):
                path.unlink()

        raise


def _spawn_with_sockets(plan: LaunchPlan, program: Program) -> int:
    with contextlib.ExitStack() as stack:
        paths = (sockets.monitor_socket(plan.run_dir), *_agent_sockets(plan.run_dir))
        listeners = [stack.enter_context(sockets.listening(path)) for path in paths]
        monitor, *agents = (listener.fileno() for listener in listeners)
        around = args.Surroundings(
            program=program.path,
            accelerator=program.accelerator,
            monitor=monitor,
            agents=tuple(agents),
            tsc_khz=program.tsc_khz,
            now=int(time.time()),
        )
        return _spawn(plan, around)


def _spawn(plan: LaunchPlan, around: args.Surroundings) -> int:
    plan.console_log.touch(mode=0o600)
    log = postmortem.log_file(plan.run_dir)
    log.unlink(missing_ok=True)
    log.touch(mode=0o600)
    command = args.command_line(plan, around)
    return runner.spawn_detached(
        [*_BACKGROUND, *command] if plan.background else command,
        log_file=log,
        pass_fds=(around.monitor, *around.agents),
    )


async def _started(pid: int, plan: LaunchPlan) -> tuple[VMMHandle, Qmp]:
    """The VMM that was just spawned, when it runs its guest or has it loaded."""
    child = process.reference(pid)
    try:
        async with asyncio.timeout(_START_SECONDS):
            qmp = await _serving(plan)

        handle = identify(pid, plan.run_dir) if qmp is not None else None
        if qmp is not None and handle is not None:
            return handle, qmp

        raise await _failure(child, pid, plan)
    except BaseException as error:
        if child is not None:
            process.send_signal(child, signal.SIGKILL)
            await asyncio.shield(ended(child, KILL_SECONDS))

        process.reap(pid)
        if isinstance(error, TimeoutError):
            raise _too_slow() from None

        raise


async def _serving(plan: LaunchPlan) -> Qmp | None:
    """The monitor of a VMM that runs its guest or has it loaded; None when it ends before."""
    try:
        # Made at once: it waits in the socket's queue until QEMU is there.
        qmp = await Qmp.connect(sockets.monitor_socket(plan.run_dir))
    except ConnectionError:
        return None
    try:
        if plan.restore is not None:
            await checkpoint.load(qmp, plan.restore.state)

        await qmp.ready
    except BaseException as error:
        qmp.close()
        if isinstance(error, Refused):
            raise failures.explain(error.reason, "", ErrorCode.RESTORE_FAILED) from error

        if isinstance(error, ConnectionError):
            return None

        raise
    return qmp


async def _failure(child: process.ProcessRef | None, pid: int, plan: LaunchPlan) -> BangerError:
    if child is not None:
        await ended(child, KILL_SECONDS)

    status = process.reap(pid)
    code = ErrorCode.LAUNCH_FAILED if plan.restore is None else ErrorCode.RESTORE_FAILED
    output = postmortem.read_log(plan.run_dir)
    return failures.explain(output, status or "it ended without a word", code)


def _too_slow() -> PermanentError:
    return PermanentError(
        ErrorCode.LAUNCH_FAILED,
        f"QEMU did not start within {_START_SECONDS:.0f} s",
        hint="the host may be overloaded: try again, or see: banger doctor",
    )


def _agent_sockets(run_dir: Path) -> Iterator[Path]:
    return (socket_path(run_dir, number) for number in range(PORTS))
