"""The contract between the daemon and a VMM. Plans and handles are data; a handle is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

import msgspec


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A virtio block device. `serial` (at most 20 bytes) is how the guest finds it.

    With `device` it is the dm snapshot of that name, which exists; `path` is what it writes to.
    """

    serial: str
    path: Path
    format: Literal["raw", "qcow2"]
    readonly: bool = False
    device: str | None = None


class Forward(msgspec.Struct, frozen=True, kw_only=True):
    """Connections to `host_ip:host_port` reach `guest_port` in the guest."""

    host_ip: str
    host_port: int
    guest_port: int
    protocol: Literal["tcp", "udp"] = "tcp"


class MemoryImage(msgspec.Struct, frozen=True, kw_only=True):
    """A guest's memory and devices at one moment: the directory with its `memory` and `state`.

    Both files are immutable. `memory` is as large as the guest's RAM, with holes for zeros.
    """

    directory: Path

    @property
    def memory(self) -> Path:
        return self.directory / "memory"

    @property
    def state(self) -> Path:
        return self.directory / "state"


class UserNic(msgspec.Struct, frozen=True, kw_only=True):
    """A NIC on QEMU's user-mode network, in the guest's view of addresses.

    Without `egress` the guest reaches nothing; forwards work all the same.
    """

    mac: str
    cidr: str
    gateway: str
    dns: str
    address: str
    egress: bool
    forwards: tuple[Forward, ...] = ()


class TapNic(msgspec.Struct, frozen=True, kw_only=True):
    """A NIC whose other end is the host's tap `tap`, which exists and which the owner may open."""

    mac: str
    tap: str


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All a VMM needs to know to run one VM: pure data, made before anything is started.

    `run_dir` exists, is private, and holds this VM's sockets and nothing else: its path in the
    VMM's command line is what identifies the process later. `memory` is in bytes.

    With `restore` the guest does not boot: it is what it was when that was saved, by a VMM of the
    same plan but for paths, names, addresses and ports. `background` is for VMs nobody waits for:
    they get the processor time that is left over. Each disk moves at most `disk_rate` bytes a
    second, the NIC `net_rate` in each direction; 0 sets no bound.
    """

    vm_id: str
    name: str
    vcpus: int
    memory: int
    kernel: Path
    initrd: Path
    cmdline: str
    disks: tuple[Disk, ...]
    nic: UserNic | TapNic
    run_dir: Path
    console_log: Path
    restore: MemoryImage | None = None
    background: bool = False
    disk_rate: int = 0
    net_rate: int = 0


class VMMHandle(msgspec.Struct, frozen=True, kw_only=True):
    """Identity of a VMM process: pid alone is never trusted, because pids are reused.

    `start_time` is field 22 of proc_pid_stat(5), in clock ticks since boot.
    """

    pid: int
    start_time: int
    executable: str
    run_dir: str
    accelerator: str


class ExitReason(StrEnum):
    """Why a VMM is gone, as far as it could be told.

    A VMM that cannot reset its guest ends with `GUEST_REBOOT`: who runs the VM starts another.
    """

    GUEST_POWEROFF = "guest powered off"
    GUEST_REBOOT = "guest rebooted"
    GUEST_PANIC = "guest kernel panicked"
    TRIPLE_FAULT = "guest's processor shut down (triple fault)"
    KVM_FAILED = "KVM could not go on with the guest: see the host's kernel log"
    STOPPED = "stopped"
    DIED = "VMM process ended unexpectedly"


class VMMUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What a VMM process uses: CPU seconds in all, lifetime average percent, bytes of memory."""

    cpu_seconds: float
    cpu_percent: float
    rss_bytes: int
    pss_bytes: int
    uptime_seconds: float


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What this host's VMM can do. `accelerator` is what a VM started now would run on, and why."""

    name: str
    version: str
    accelerator: str
    accelerator_reason: str


class Hypervisor(Protocol):
    """One VMM program. Calls for different VMs may overlap; calls for one VM do not."""

    async def capabilities(self) -> Capabilities:
        """What a VM started now would get. Raises PermanentError(hypervisor_missing)."""

    async def launch(self, plan: LaunchPlan) -> VMMHandle:
        """Start the VMM and return when it runs its guest; on error nothing of it is left.

        A guest that is restored is loaded when this returns, and paused: nothing has run in it.
        Raises CallerError(port_taken) for a forward that is in use, PermanentError
        (hypervisor_missing, insufficient_memory, launch_failed, restore_failed). The VMM outlives
        this process.
        """

    async def find(self, run_dir: Path) -> VMMHandle | None:
        """The live VMM whose sockets are in `run_dir`, known or not: how a crash is cleaned up."""

    def alive(self, handle: VMMHandle) -> bool:
        """Whether exactly the process of `handle` still runs (a zombie does not)."""

    def watch(self, handle: VMMHandle, on_exit: Callable[[ExitReason], None]) -> None:
        """Call `on_exit` once, from the event loop, when that process has ended. Costs no CPU.

        A process that is gone already is reported too. While it is watched its logs are kept
        small. A second watch of the same VMM takes the place of the first.
        """

    def exit_reason(self, handle: VMMHandle) -> ExitReason:
        """Why that VMM, which has ended, did: also when nobody watched. Needs its run directory."""

    async def pause(self, handle: VMMHandle) -> None:
        """Stop the guest's processors; its clocks stand still. Nothing if they do already.

        This and the next two raise PermanentError(vm_not_running) when the VMM has ended, and
        OutcomeUnknown when it does not answer.
        """

    async def resume(self, handle: VMMHandle) -> None:
        """Let a paused guest go on; nothing if it runs.

        Raises PermanentError(launch_failed) when another process uses a disk of a restored guest.
        """

    async def paused(self, handle: VMMHandle) -> bool:
        """Whether the guest's processors stand still because somebody paused it.

        A guest that waits for room on the host's disk is not paused.
        """

    async def reclaim(self, handle: VMMHandle, size: int) -> int:
        """Take up to `size` bytes of memory from a running guest, and let it have them back.

        They are the host's then, until the guest uses them. Returns how many that were. Raises
        CallerError(unsupported), and what `pause` does.
        """

    async def save(
        self, handle: VMMHandle, stream: Path, overlays: Sequence[Disk], *, resume: bool
    ) -> None:
        """Write what the guest is at one moment to the new file `stream`, for `convert`.

        In that moment the disks named by serial in `overlays` go over to those files, which are
        empty qcow2 overlays of what they replace; that stays as it was in that moment. Firecracker
        has none: who wants its disks of that moment copies them before `Hypervisor.resume`.
        Afterwards the guest is as it was before, or paused without `resume`. On error it is as it
        was before, no `stream` is left, and each overlay may or may not be in use (see `top`).
        Raises PermanentError(insufficient_disk, save_failed).
        """

    async def convert(self, stream: Path, out: MemoryImage) -> None:
        """Make the directory `out`, of which nothing exists, from what `save` wrote to `stream`.

        The stream is used up, also on error. What is made is not synced to disk: whoever keeps it
        does that. On error nothing of `out` is left. Raises PermanentError(insufficient_disk,
        save_failed).
        """

    async def top(self, handle: VMMHandle, serial: str) -> Path:
        """The file that the guest's disk `serial` is written to now."""

    async def flatten(self, handle: VMMHandle, serial: str, bottom: Path) -> None:
        """Copy into a disk's top file what lies between it and `bottom`, while the guest runs.

        When this returns the top's backing file is `bottom`. Cancelled or failed, it is what it
        was. Raises PermanentError(insufficient_disk, save_failed).
        """

    async def terminate(self, handle: VMMHandle, timeout: float) -> None:
        """End the VMM without asking the guest, disk images closed; kill it after `timeout` s.

        What it had on the host and nothing else removes (a jail) goes too, also when it has ended
        before.
        """

    async def kill(self, handle: VMMHandle, signal: int) -> None:
        """Send `signal` to exactly that process; after SIGKILL, return when it is gone."""

    def usage(self, handle: VMMHandle) -> VMMUsage | None:
        """What the process uses now; None when it is gone."""

    def close(self) -> None:
        """Let go of all VMs: no more watching. They go on, and can be watched again."""
