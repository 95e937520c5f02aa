"""The contract between the daemon and a VMM. Plans and handles are data; a handle is stored."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol

import msgspec


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A virtio block device. `serial` (at most 20 bytes) is how the guest finds it."""

    serial: str
    path: Path
    format: Literal["raw", "qcow2"]
    readonly: bool = False


class Forward(msgspec.Struct, frozen=True, kw_only=True):
    """Connections to `host_ip:host_port` reach `guest_port` in the guest."""

    host_ip: str
    host_port: int
    guest_port: int
    protocol: Literal["tcp", "udp"] = "tcp"


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


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All a VMM needs to know to run one VM: pure data, made before anything is started.

    `run_dir` exists, is private, and holds this VM's sockets and nothing else: its path in the
    VMM's command line is what identifies the process later. `memory` is in bytes.
    """

    vm_id: str
    name: str
    vcpus: int
    memory: int
    kernel: Path
    initrd: Path
    cmdline: str
    disks: tuple[Disk, ...]
    nic: UserNic
    run_dir: Path
    console_log: Path


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
    """Why a VMM is gone, as far as it could be told."""

    GUEST_POWEROFF = "guest powered off"
    GUEST_PANIC = "guest kernel panicked"
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

        Raises CallerError(port_taken) for a forward that is in use, PermanentError
        (hypervisor_missing, insufficient_memory, launch_failed). The VMM outlives this process.
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

    async def guest_request(self, handle: VMMHandle, request: str) -> None:
        """Send one line to the guest's control port (docs/architecture.md, "Control port").

        Returns when it is under way; a guest reads it when it can. Raises OSError when the VMM is
        gone.
        """

    async def guest_ready(self, handle: VMMHandle) -> str:
        """Wait until the guest says it is up; returns its kernel's boot id.

        Each boot is told once: the next call waits for the guest's next boot. Waits for ever: the
        caller owns the time. Raises PermanentError(launch_failed) if the VMM ends first.
        """

    async def terminate(self, handle: VMMHandle, timeout: float) -> None:
        """End the VMM without asking the guest, disk images closed; kill it after `timeout` s."""

    async def kill(self, handle: VMMHandle, signal: int) -> None:
        """Send `signal` to exactly that process; after SIGKILL, return when it is gone."""

    def usage(self, handle: VMMHandle) -> VMMUsage | None:
        """What the process uses now; None when it is gone."""

    def close(self) -> None:
        """Let go of all VMs: no more watching. They go on, and can be watched again."""
