"""Firecracker behind the `Hypervisor` contract. docs/hypervisor.md has the reasons."""

from __future__ import annotations

import asyncio
import logging
import os
import signal as signals
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import BangerError, ErrorCode, PermanentError
from banger.api.sizes import MIB
from banger.host import process, runner
from banger.host.files import undo_unless_done
from banger.host.threads import in_thread
from banger.hypervisor import kvm
from banger.hypervisor.base import (
    Capabilities,
    Disk,
    ExitReason,
    LaunchPlan,
    MemoryImage,
    VMMHandle,
    VMMUsage,
)
from banger.hypervisor.console import Bounds
from banger.hypervisor.ending import killed
from banger.hypervisor.firecracker import (
    balloon,
    checkpoint,
    failures,
    jails,
    postmortem,
    record,
    version,
)
from banger.hypervisor.firecracker.api import Api, connected
from banger.hypervisor.firecracker.config import Program
from banger.hypervisor.firecracker.model import BalloonTarget, RunState
from banger.hypervisor.firecracker.start import start
from banger.hypervisor.identity import process_of
from banger.hypervisor.usage import read_usage
from banger.hypervisor.watch import Watch
from banger.privileged.base import PrivilegedOps
from banger.privileged.ops import Binaries, ResolveBinaries

# What ends a process that does not handle it. A VMM is the first of its pid namespace, and the
# kernel keeps all of these but SIGKILL from such a process (pid_namespaces(7)).
_DEADLY = (signals.SIGKILL, signals.SIGTERM, signals.SIGINT, signals.SIGQUIT)

# How long the helper's word for where the programs are is good; a launch has it look again anyway.
_FRESH_SECONDS = 10.0

log = logging.getLogger(__name__)


class Firecracker:
    """VMs as Firecracker processes of the owner's, in jails that `ops` makes.

    `firecracker` and `jailer` are paths, or empty for where programs are installed.
    """

    def __init__(self, ops: PrivilegedOps, firecracker: str = "", jailer: str = "") -> None:
        self._ops = ops
        self._wanted = ResolveBinaries(firecracker=firecracker, jailer=jailer)
        self._verdict: kvm.Verdict | None = None
        self._versions: dict[tuple[tuple[int, int], ...], str] = {}
        self._found: _Found | None = None
        self._watches: dict[VMMHandle, Watch] = {}
        self._turns: dict[VMMHandle, asyncio.Lock] = {}
        self._clearing: dict[str, asyncio.Task[None]] = {}
        self._bounds = Bounds()

    async def installed(self) -> str:
        """The version. Raises PermanentError: hypervisor_missing, unsupported_host."""
        return await self._version(await self._binaries())

    async def capabilities(self) -> Capabilities:
        found = await self.installed()
        verdict = self._kvm()
        return Capabilities(
            name="Firecracker",
            version=found,
            accelerator="kvm",
            accelerator_reason=verdict.reason,
        )

    async def launch(self, plan: LaunchPlan) -> VMMHandle:
        binaries = await self._binaries()
        self._kvm()
        await self._version(binaries)
        program = Program(binaries.firecracker, binaries.jailer, _systemd_runs())
        return await start(self._ops, plan, program)

    async def find(self, run_dir: Path) -> VMMHandle | None:
        noted = record.read(run_dir)
        return None if noted is None else await jails.find(self._ops, noted, run_dir)

    def alive(self, handle: VMMHandle) -> bool:
        return jails.lives(handle)

    def watch(self, handle: VMMHandle, on_exit: Callable[[ExitReason], None]) -> None:
        run_dir = Path(handle.run_dir)
        noted = record.read(run_dir)

        def ended() -> None:
            process.reap(handle.pid)
            reason = self.exit_reason(handle)
            self._forget(handle)
            if noted is not None:
                self._begin_to_clear(noted.jail)

            on_exit(reason)

        self._unwatch(handle)
        names = (record.METRICS, record.LOG)
        logs = () if noted is None else (Path(noted.console), *(run_dir / name for name in names))
        self._watches[handle] = Watch(handle, self._bounds, logs, ended)

    def exit_reason(self, handle: VMMHandle) -> ExitReason:
        return postmortem.read(Path(handle.run_dir))

    async def pause(self, handle: VMMHandle) -> None:
        async with self._asking(handle, ErrorCode.VM_NOT_RUNNING, "pausing the VM") as api:
            await api.set_state(RunState(state="Paused"))

    async def resume(self, handle: VMMHandle) -> None:
        async with self._asking(handle, ErrorCode.VM_NOT_RUNNING, "resuming the VM") as api:
            await api.set_state(RunState(state="Resumed"))

    async def paused(self, handle: VMMHandle) -> bool:
        what = "asking whether the VM is paused"
        async with self._asking(handle, ErrorCode.VM_NOT_RUNNING, what) as api:
            return (await api.info()).state == "Paused"

    async def reclaim(self, handle: VMMHandle, size: int) -> int:
        what = "taking memory back from the guest"

        async def aim(mib: int) -> None:
            async with self._asking(handle, ErrorCode.VM_NOT_RUNNING, what) as api:
                await api.put(BalloonTarget(amount_mib=mib))

        async def look() -> int:
            async with self._asking(handle, ErrorCode.VM_NOT_RUNNING, what) as api:
                return (await api.balloon()).actual_mib

        return await balloon.squeeze(aim, look, size // MIB) * MIB

    async def save(
        self, handle: VMMHandle, stream: Path, overlays: Sequence[Disk], *, resume: bool
    ) -> None:
        if overlays:
            raise ValueError("Firecracker's disks are files that have no layers")

        saving = Path(_noted(handle).saving)
        async with self._asking(handle, ErrorCode.SAVE_FAILED, "saving the VM") as api:
            stood_still = (await api.info()).state == "Paused"
            try:
                with undo_unless_done(stream):
                    await api.set_state(RunState(state="Paused"))
                    await checkpoint.write(api, saving)
                    await in_thread(checkpoint.join, saving, stream)
                    if resume and not stood_still:
                        await api.set_state(RunState(state="Resumed"))
            except BaseException:
                if not stood_still:
                    await asyncio.shield(self._go_on(handle))

                raise

    async def convert(self, stream: Path, out: MemoryImage) -> None:
        await in_thread(checkpoint.convert, stream, out)

    async def top(self, handle: VMMHandle, serial: str) -> Path:
        return Path(_noted(handle).disks[serial])

    async def flatten(self, handle: VMMHandle, serial: str, bottom: Path) -> None:
        """Nothing: a disk is one file."""

    async def terminate(self, handle: VMMHandle, timeout: float) -> None:
        # It keeps nothing back that a guest has written: to be killed costs its disks nothing.
        await self.kill(handle, signals.SIGKILL)

    async def kill(self, handle: VMMHandle, signal: int) -> None:
        if signal not in _DEADLY:
            process.send_signal(process_of(handle), signal)
            return

        run_dir = Path(handle.run_dir)
        if self.alive(handle):
            record.note_stop(run_dir)

        process.send_signal(process_of(handle), signals.SIGKILL)
        await killed(process_of(handle))
        noted = record.read(run_dir)
        if noted is not None:
            await self._begin_to_clear(noted.jail)

    def usage(self, handle: VMMHandle) -> VMMUsage | None:
        return read_usage(process_of(handle))

    def close(self) -> None:
        for handle in list(self._watches):
            self._forget(handle)

        self._bounds.close()

    async def _binaries(self) -> Binaries:
        if self._found is None or not self._found.good():
            self._found = None
            binaries = await self._resolved()
            self._found = _Found(binaries, _looks(binaries), time.monotonic() + _FRESH_SECONDS)

        return self._found.binaries

    async def _resolved(self) -> Binaries:
        try:
            return await self._ops.call(self._wanted)
        except BangerError as error:
            if error.code is not ErrorCode.HELPER_REFUSED:
                raise

            raise PermanentError(
                ErrorCode.HYPERVISOR_MISSING,
                f"Firecracker and its jailer cannot be used: {error.message}",
                hint="put both into /usr/local/bin as root (docs/install.md), then: banger doctor",
            ) from None

    def _kvm(self) -> kvm.Verdict:
        """Raises PermanentError(unsupported_host) without a usable KVM."""
        if self._verdict is None or not self._verdict.usable:
            self._verdict = kvm.probe(given=True)

        if not self._verdict.usable:
            raise PermanentError(
                ErrorCode.UNSUPPORTED_HOST,
                f"Firecracker needs KVM, but {self._verdict.reason}",
                hint="see: banger doctor",
            )

        return self._verdict

    async def _version(self, binaries: Binaries) -> str:
        looks = _looks(binaries)
        if looks not in self._versions:
            said = await runner.run([binaries.firecracker, "--version"], timeout=10)
            found = version.parse(said.text)
            said = await runner.run([binaries.jailer, "--version"], timeout=10)
            version.check_jailer(said.text, found)
            self._versions[looks] = found

        return self._versions[looks]

    @asynccontextmanager
    async def _asking(self, handle: VMMHandle, code: ErrorCode, what: str) -> AsyncIterator[Api]:
        """A connection to the VMM while nobody else makes it stop or go on."""
        with failures.explained(code, what):
            async with (
                self._turns.setdefault(handle, asyncio.Lock()),
                connected(Path(handle.run_dir)) as api,
            ):
                yield api

    async def _go_on(self, handle: VMMHandle) -> None:
        # What failed may have left the other connection in the middle of an answer.
        with failures.explained(ErrorCode.SAVE_FAILED, "letting the VM go on"):
            async with connected(Path(handle.run_dir)) as api:
                await api.set_state(RunState(state="Resumed"))

    def _begin_to_clear(self, jail: str) -> asyncio.Task[None]:
        if jail not in self._clearing:
            task = asyncio.ensure_future(self._clear(jail))
            self._clearing[jail] = task
            task.add_done_callback(lambda _: self._clearing.pop(jail, None))

        return self._clearing[jail]

    async def _clear(self, jail: str) -> None:
        try:
            await jails.evict(self._ops, jail)
        except BangerError as error:
            # The next daemon finds it by banger's mark.
            log.warning("the jail %s stays for now: %s", jail, error)

    def _forget(self, handle: VMMHandle) -> None:
        self._unwatch(handle)
        self._turns.pop(handle, None)

    def _unwatch(self, handle: VMMHandle) -> None:
        watch = self._watches.pop(handle, None)
        if watch is not None:
            watch.close()


@dataclass(frozen=True, slots=True)
class _Found:
    """The programs, how their files looked, and until when (monotonic) that is good."""

    binaries: Binaries
    looks: tuple[tuple[int, int], ...]
    until: float

    def good(self) -> bool:
        try:
            return time.monotonic() < self.until and _looks(self.binaries) == self.looks
        except OSError:
            return False


def _looks(binaries: Binaries) -> tuple[tuple[int, int], ...]:
    """Which files they are, and when they were last touched."""
    infos = [os.stat(path) for path in (binaries.firecracker, binaries.jailer)]  # noqa: PTH116
    return tuple((info.st_ino, info.st_ctime_ns) for info in infos)


def _systemd_runs() -> bool:
    """Whether there is a systemd (sd_booted(3)), which is what makes control groups."""
    return Path("/run/systemd/system").is_dir()


def _noted(handle: VMMHandle) -> record.Record:
    noted = record.read(Path(handle.run_dir))
    if noted is None:
        raise PermanentError(
            ErrorCode.VM_NOT_RUNNING, "nothing is known of that VMM", hint="see: banger vm list"
        )

    return noted
