"""QEMU's microvm machine behind the `Hypervisor` contract. docs/hypervisor.md has the reasons."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal as signals
from collections.abc import Callable
from pathlib import Path

from banger.api.errors import BangerError, ErrorCode, OutcomeUnknown, PermanentError
from banger.host import process, runner
from banger.hypervisor import kvm
from banger.hypervisor.base import (
    Capabilities,
    ExitReason,
    LaunchPlan,
    VMMHandle,
    VMMUsage,
)
from banger.hypervisor.qemu import args, console, failures, monitor, postmortem, sockets
from banger.hypervisor.qemu.control import ControlLink
from banger.hypervisor.qemu.identity import (
    command_line_of,
    identify,
    is_vmm,
    process_of,
    search,
)
from banger.hypervisor.qemu.tsc import measure_tsc_khz
from banger.hypervisor.qemu.usage import read_usage
from banger.hypervisor.qemu.watch import Watch

PROGRAM = "qemu-system-x86_64"

# QEMU is up in 0.1 s; a host that is swapping may take long, but not for ever.
_START_SECONDS = 30.0

# SIGKILL works at once, except on a process that waits for a disk that does not answer.
_KILL_SECONDS = 10.0


class Qemu:
    """VMs as QEMU processes of the caller's own user."""

    def __init__(
        self, binary: str | None = None, accelerator: kvm.AcceleratorSetting = "auto"
    ) -> None:
        self._binary = binary or PROGRAM
        self._setting = accelerator
        self._versions: dict[tuple[str, int], str] = {}
        self._verdict: kvm.Verdict | None = None
        self._tsc_khz: asyncio.Future[int | None] | None = None
        self._links: dict[VMMHandle, ControlLink] = {}
        self._watches: dict[VMMHandle, Watch] = {}
        self._bounds = console.Bounds()

    async def capabilities(self) -> Capabilities:
        program = self._program()
        accelerator = self._accelerator()
        return Capabilities(
            name="QEMU",
            version=await self._version(program),
            accelerator=accelerator.name,
            accelerator_reason=accelerator.reason,
        )

    async def launch(self, plan: LaunchPlan) -> VMMHandle:
        program = self._program()
        accelerator = self._accelerator()
        tsc_khz = await self._tsc() if accelerator.name == "tcg" else None
        try:
            with (
                sockets.listening(sockets.control_socket(plan.run_dir)) as control,
                sockets.listening(sockets.monitor_socket(plan.run_dir)) as qmp,
            ):
                around = args.Surroundings(
                    program=program,
                    accelerator=accelerator.name,
                    control=control.fileno(),
                    monitor=qmp.fileno(),
                    tsc_khz=tsc_khz,
                )
                pid = _spawn(plan, around)
            return await _started(pid, plan.run_dir)
        except BaseException:
            _remove_traces(plan.run_dir)
            raise

    async def find(self, run_dir: Path) -> VMMHandle | None:
        return await asyncio.to_thread(search, run_dir)

    def alive(self, handle: VMMHandle) -> bool:
        return process.alive(process_of(handle)) and is_vmm(
            command_line_of(handle.pid), Path(handle.run_dir)
        )

    def watch(self, handle: VMMHandle, on_exit: Callable[[ExitReason], None]) -> None:
        def ended() -> None:
            process.reap(handle.pid)
            self._forget(handle)
            on_exit(self.exit_reason(handle))

        self._unwatch(handle)
        self._watches[handle] = Watch(handle, self._bounds, ended)

    def exit_reason(self, handle: VMMHandle) -> ExitReason:
        return postmortem.exit_reason(postmortem.read_log(Path(handle.run_dir)))

    async def guest_request(self, handle: VMMHandle, request: str) -> None:
        (await self._link(handle)).send(request)

    async def guest_ready(self, handle: VMMHandle) -> str:
        try:
            return await (await self._link(handle)).next_boot()
        except OSError:
            raise PermanentError(
                ErrorCode.LAUNCH_FAILED,
                f"the VMM ended before its guest was up: {self.exit_reason(handle)}",
                hint="its console may say why: banger vm logs VM",
            ) from None

    async def terminate(self, handle: VMMHandle, timeout: float) -> None:
        # On SIGTERM QEMU closes its disk images; it is heard even when the guest is wedged.
        process.send_signal(process_of(handle), signals.SIGTERM)
        if not await _gone(handle, timeout):
            await self.kill(handle, signals.SIGKILL)

    async def kill(self, handle: VMMHandle, signal: int) -> None:
        if signal == signals.SIGKILL and self.alive(handle):
            postmortem.note_kill(Path(handle.run_dir))

        process.send_signal(process_of(handle), signal)
        if signal == signals.SIGKILL and not await _gone(handle, _KILL_SECONDS):
            raise OutcomeUnknown(
                ErrorCode.INTERNAL,
                f"process {handle.pid} does not end, not even on SIGKILL",
                hint="a disk of the host may be failing: see dmesg",
            )

    def usage(self, handle: VMMHandle) -> VMMUsage | None:
        return read_usage(process_of(handle))

    def close(self) -> None:
        for handle in [*self._links, *self._watches]:
            self._forget(handle)

        self._bounds.close()

    def _program(self) -> str:
        found = shutil.which(self._binary)
        if found is None:
            raise failures.missing(self._binary)

        return found

    def _accelerator(self) -> kvm.Accelerator:
        if self._verdict is None:
            self._verdict = kvm.probe()

        return kvm.choose(self._setting, self._verdict)

    async def _version(self, program: str) -> str:
        key = (program, os.stat(program).st_mtime_ns)  # noqa: PTH116, one quick call
        if key not in self._versions:
            text = (await runner.run([program, "--version"], timeout=10)).text
            found = re.search(r"version (\d[\w.]*)", text)
            self._versions[key] = found[1] if found else "of unknown version"

        return self._versions[key]

    async def _tsc(self) -> int | None:
        if self._tsc_khz is None:
            self._tsc_khz = asyncio.ensure_future(asyncio.to_thread(measure_tsc_khz))

        return await asyncio.shield(self._tsc_khz)

    async def _link(self, handle: VMMHandle) -> ControlLink:
        link = self._links.get(handle)
        if link is None or link.closed:
            path = sockets.control_socket(Path(handle.run_dir))
            link = self._links[handle] = await ControlLink.connect(path)

        return link

    def _forget(self, handle: VMMHandle) -> None:
        self._unwatch(handle)
        link = self._links.pop(handle, None)
        if link is not None:
            link.close()

    def _unwatch(self, handle: VMMHandle) -> None:
        watch = self._watches.pop(handle, None)
        if watch is not None:
            watch.close()


def _spawn(plan: LaunchPlan, around: args.Surroundings) -> int:
    plan.console_log.touch(mode=0o600)
    log = postmortem.log_file(plan.run_dir)
    log.unlink(missing_ok=True)
    log.touch(mode=0o600)
    return runner.spawn_detached(
        args.command_line(plan, around),
        log_file=log,
        pass_fds=(around.control, around.monitor),
    )


async def _started(pid: int, run_dir: Path) -> VMMHandle:
    """The handle of the VMM that was just spawned, when it runs its guest; or nothing of it."""
    child = process.reference(pid)
    try:
        async with asyncio.timeout(_START_SECONDS):
            up = await monitor.serves(sockets.monitor_socket(run_dir))

        handle = identify(pid, run_dir) if up else None
        if handle is not None:
            return handle

        raise await _failure(child, pid, run_dir)
    except BaseException as error:
        if child is not None:
            process.send_signal(child, signals.SIGKILL)
            await asyncio.shield(_wait(child, _KILL_SECONDS))

        process.reap(pid)
        if isinstance(error, TimeoutError):
            raise _too_slow() from None

        raise


async def _failure(child: process.ProcessRef | None, pid: int, run_dir: Path) -> BangerError:
    if child is not None:
        await _wait(child, _KILL_SECONDS)

    status = process.reap(pid)
    return failures.explain(postmortem.read_log(run_dir), status or "it ended without a word")


def _too_slow() -> PermanentError:
    return PermanentError(
        ErrorCode.LAUNCH_FAILED,
        f"QEMU did not start within {_START_SECONDS:.0f} s",
        hint="the host may be overloaded: try again, or see: banger doctor",
    )


async def _gone(handle: VMMHandle, timeout: float) -> bool:
    ended = await _wait(process_of(handle), timeout)
    if ended:
        process.reap(handle.pid)

    return ended


async def _wait(child: process.ProcessRef, timeout: float) -> bool:
    ended = asyncio.Event()
    unwatch = process.on_exit(child, ended.set)
    try:
        async with asyncio.timeout(timeout):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        unwatch()
    return True


def _remove_traces(run_dir: Path) -> None:
    for path in (
        sockets.control_socket(run_dir),
        sockets.monitor_socket(run_dir),
        args.pidfile(run_dir),
        postmortem.log_file(run_dir),
    ):
        with contextlib.suppress(OSError):
            path.unlink()
