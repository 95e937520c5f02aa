"""QEMU's microvm machine behind the `Hypervisor` contract. docs/hypervisor.md has the reasons."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal as signals
from collections.abc import Callable, Sequence
from pathlib import Path

from banger.api.errors import CallerError, ErrorCode
from banger.host import process, runner
from banger.host.threads import in_thread
from banger.hypervisor import console, kvm
from banger.hypervisor.base import (
    Capabilities,
    Disk,
    ExitReason,
    LaunchPlan,
    MemoryImage,
    VMMHandle,
    VMMUsage,
)
from banger.hypervisor.ending import gone, killed
from banger.hypervisor.identity import command_line_of, process_of
from banger.hypervisor.qemu import (
    args,
    blocks,
    checkpoint,
    failures,
    postmortem,
    runstate,
)
from banger.hypervisor.qemu import stream as streams
from banger.hypervisor.qemu.identity import is_vmm, search
from banger.hypervisor.qemu.monitor import Monitor
from banger.hypervisor.qemu.start import Program, start
from banger.hypervisor.qemu.tsc import measure_tsc_khz
from banger.hypervisor.qemu.watch import QemuWatch
from banger.hypervisor.usage import read_usage

PROGRAM = "qemu-system-x86_64"


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
        self._monitors: dict[VMMHandle, Monitor] = {}
        self._watches: dict[VMMHandle, QemuWatch] = {}
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
        path = self._program()
        accelerator = self._accelerator().name
        tsc_khz = await self._tsc() if accelerator == "tcg" else None
        handle, qmp = await start(plan, Program(path, accelerator, tsc_khz))
        self._monitor(handle).adopt(qmp)
        return handle

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
        self._watches[handle] = QemuWatch(handle, self._bounds, self._monitor(handle), ended)

    def exit_reason(self, handle: VMMHandle) -> ExitReason:
        return postmortem.exit_reason(postmortem.read_log(Path(handle.run_dir)))

    async def pause(self, handle: VMMHandle) -> None:
        monitor = self._monitor(handle)
        with failures.explained(ErrorCode.VM_NOT_RUNNING, "pausing the VM"):
            async with monitor.exclusive:
                await runstate.pause(await monitor.qmp())

    async def resume(self, handle: VMMHandle) -> None:
        monitor = self._monitor(handle)
        with failures.explained(ErrorCode.VM_NOT_RUNNING, "resuming the VM"):
            async with monitor.exclusive:
                await runstate.go_on(await monitor.qmp())

    async def paused(self, handle: VMMHandle) -> bool:
        with failures.explained(ErrorCode.VM_NOT_RUNNING, "asking whether the VM is paused"):
            return await runstate.stands_still(await self._monitor(handle).qmp())

    async def reclaim(self, handle: VMMHandle, size: int) -> int:
        # To hand back a page of a clone, QEMU would punch a hole into the file all clones share.
        raise CallerError(
            ErrorCode.UNSUPPORTED,
            "without an installation a guest has no memory balloon",
            hint="an installed host can do that: sudo banger system install; or suspend the VM",
        )

    async def save(
        self, handle: VMMHandle, stream: Path, overlays: Sequence[Disk], *, resume: bool
    ) -> None:
        monitor = self._monitor(handle)
        with failures.explained(ErrorCode.SAVE_FAILED, "saving the VM"):
            async with monitor.exclusive:
                qmp = await monitor.qmp()
                await checkpoint.save(qmp, stream, overlays, resume=resume)

    async def convert(self, stream: Path, out: MemoryImage) -> None:
        await in_thread(streams.convert, stream, out, args.MEMORY)

    async def top(self, handle: VMMHandle, serial: str) -> Path:
        with failures.explained(ErrorCode.VM_NOT_RUNNING, "asking for the VM's disks"):
            return await blocks.top(await self._monitor(handle).qmp(), serial)

    async def flatten(self, handle: VMMHandle, serial: str, bottom: Path) -> None:
        with failures.explained(ErrorCode.SAVE_FAILED, "flattening a disk of the VM"):
            await blocks.flatten(await self._monitor(handle).qmp(), serial, bottom)

    async def terminate(self, handle: VMMHandle, timeout: float) -> None:
        # On SIGTERM QEMU closes its disk images; it is heard even when the guest is wedged.
        process.send_signal(process_of(handle), signals.SIGTERM)
        if not await gone(process_of(handle), timeout):
            await self.kill(handle, signals.SIGKILL)

    async def kill(self, handle: VMMHandle, signal: int) -> None:
        if signal == signals.SIGKILL and self.alive(handle):
            postmortem.note_kill(Path(handle.run_dir))

        process.send_signal(process_of(handle), signal)
        if signal == signals.SIGKILL:
            await killed(process_of(handle))

    def usage(self, handle: VMMHandle) -> VMMUsage | None:
        return read_usage(process_of(handle))

    def close(self) -> None:
        for handle in [*self._watches, *self._monitors]:
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

    def _monitor(self, handle: VMMHandle) -> Monitor:
        if handle not in self._monitors:
            self._monitors[handle] = Monitor(Path(handle.run_dir))

        return self._monitors[handle]

    def _forget(self, handle: VMMHandle) -> None:
        self._unwatch(handle)
        monitor = self._monitors.pop(handle, None)
        if monitor is not None:
            monitor.close()

    def _unwatch(self, handle: VMMHandle) -> None:
        watch = self._watches.pop(handle, None)
        if watch is not None:
            watch.close()
