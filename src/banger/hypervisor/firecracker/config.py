"""From a plan to what Firecracker and the root helper are asked for: pure functions.

In its jail a VMM sees `/run` (the run directory), files and directories of the owner's in `/files`
and device-mapper devices in `/devices`, under the same names for every VM: a saved guest's paths
are right in any other VM's jail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from banger.api.sizes import MIB
from banger.channel import vsock
from banger.hypervisor.base import Disk, LaunchPlan, TapNic
from banger.hypervisor.firecracker.model import (
    Action,
    Balloon,
    BootSource,
    Drive,
    DriveLimit,
    Entropy,
    Logger,
    MachineConfig,
    MemoryBackend,
    Metrics,
    NetworkInterface,
    NetworkLimit,
    NetworkOverride,
    RateLimiter,
    Setting,
    SnapshotCreate,
    SnapshotLoad,
    TokenBucket,
    Vsock,
)
from banger.hypervisor.firecracker.record import LOG, METRICS
from banger.privileged.ops import DEVICES, FILES, JailDevice, JailFile, Launch, Limits

NIC = "eth0"
# vsock(7): below 3 are reserved. Each VM has a socket of its own, so all may have the same.
_GUEST_CID = 3

# The only end of this machine is a reset, by the keyboard controller; there is no
# PCI, and no mouse or multiplexer on that controller to look for.
_BOOT_ARGS = "reboot=k pci=off i8042.noaux i8042.nomux i8042.dumbkbd"

# Seconds, the most there is: without statistics nothing tells what a balloon has taken, and the
# guest is not to wake up for those that nobody reads.
_SELDOM = 65535

# What the VMM itself needs beside its guest's memory, page tables and buffers included.
_OVERHEAD = 128 * MIB
# The VMM's thread for devices and API; threads beside those of processors.
_OTHER_CPUS, _OTHER_TASKS = 1, 16
# systemd.resource-control(5): shares of what processors have. The least there is, and the usual.
_LEFT_OVER, _AS_OTHERS = 1, 100

_KERNEL, _INITRD, _SAVING, _RESTORED = "kernel", "initrd", "saving", "restored"


@dataclass(frozen=True, slots=True)
class Program:
    """What to run guests with; `confined` in a control group of their own."""

    firecracker: str
    jailer: str
    confined: bool


def saving_directory(plan: LaunchPlan) -> Path:
    """Where a checkpoint of the VM is first written: on its own disk, and gone with it."""
    return plan.console_log.with_name("saving")


def launch_request(plan: LaunchPlan, jail: str, program: Program) -> Launch:
    """What the root helper is asked for."""
    return Launch(
        jail=jail,
        firecracker=program.firecracker,
        jailer=program.jailer,
        run_dir=str(plan.run_dir),
        console=str(plan.console_log),
        files=tuple(_files(plan)),
        devices=tuple(
            JailDevice(name=disk.serial, snapshot=disk.device)
            for disk in plan.disks
            if disk.device is not None
        ),
        limits=limits(plan) if program.confined else None,
    )


def limits(plan: LaunchPlan) -> Limits:
    """What the VMM may use, whatever its guest makes of it."""
    return Limits(
        memory=plan.memory + _OVERHEAD,
        cpu_percent=100 * (plan.vcpus + _OTHER_CPUS),
        tasks=plan.vcpus + _OTHER_TASKS,
        cpu_weight=_LEFT_OVER if plan.background else _AS_OTHERS,
    )


def settings(plan: LaunchPlan) -> tuple[Setting, ...]:
    """What the API is asked for, in this order, until the guest runs or is loaded, and paused."""
    # Before all else. Of a guest's triple fault it speaks at level Info alone.
    about_itself = (
        Logger(level="Info", log_path=f"/run/{LOG}"),
        Metrics(metrics_path=f"/run/{METRICS}"),
    )
    if plan.restore is None:
        return (*about_itself, *_machine(plan), Action(action_type="InstanceStart"))

    # What was saved had the bounds of the guest it was saved of.
    return (*about_itself, _load(plan), *_limits(plan))


def snapshot() -> SnapshotCreate:
    """Write the guest into the saving directory."""
    return SnapshotCreate(
        snapshot_path=f"/{FILES}/{_SAVING}/state", mem_file_path=f"/{FILES}/{_SAVING}/memory"
    )


def _files(plan: LaunchPlan) -> Iterator[JailFile]:
    yield JailFile(name=_SAVING, path=str(saving_directory(plan)), readonly=False)
    for disk in plan.disks:
        if disk.device is None:
            yield JailFile(name=disk.serial, path=str(disk.path), readonly=disk.readonly)

    if plan.restore is not None:
        yield JailFile(name=_RESTORED, path=str(plan.restore.directory))
        return

    yield JailFile(name=_KERNEL, path=str(plan.kernel))
    yield JailFile(name=_INITRD, path=str(plan.initrd))


def _machine(plan: LaunchPlan) -> Iterator[Setting]:
    yield MachineConfig(vcpu_count=plan.vcpus, mem_size_mib=plan.memory // MIB)
    yield BootSource(
        kernel_image_path=f"/{FILES}/{_KERNEL}",
        initrd_path=f"/{FILES}/{_INITRD}",
        boot_args=f"{plan.cmdline} {_BOOT_ARGS}",
    )
    for disk in plan.disks:
        yield _drive(disk, plan.disk_rate)

    nic, limiter = _tap(plan), rate_limiter(plan.net_rate)
    yield NetworkInterface(
        iface_id=NIC,
        host_dev_name=nic.tap,
        guest_mac=nic.mac,
        rx_rate_limiter=limiter,
        tx_rate_limiter=limiter,
    )
    yield Vsock(guest_cid=_GUEST_CID, uds_path=f"/run/{vsock.SOCKET}")
    yield Entropy()
    yield Balloon(amount_mib=0, deflate_on_oom=True, stats_polling_interval_s=_SELDOM)


def rate_limiter(rate: int) -> RateLimiter | None:
    """At most `rate` bytes a second, a second's worth of them at once; None for no bound."""
    return RateLimiter(bandwidth=TokenBucket(size=rate, refill_time=1000)) if rate else None


def _limits(plan: LaunchPlan) -> Iterator[Setting]:
    disk, net = rate_limiter(plan.disk_rate), rate_limiter(plan.net_rate)
    if disk is not None:
        for each in plan.disks:
            yield DriveLimit(drive_id=each.serial, rate_limiter=disk)

    if net is not None:
        yield NetworkLimit(iface_id=NIC, rx_rate_limiter=net, tx_rate_limiter=net)


def _drive(disk: Disk, rate: int) -> Drive:
    place = FILES if disk.device is None else DEVICES
    return Drive(
        drive_id=disk.serial,
        path_on_host=f"/{place}/{disk.serial}",
        is_read_only=disk.readonly,
        rate_limiter=rate_limiter(rate),
    )


def _load(plan: LaunchPlan) -> SnapshotLoad:
    override = NetworkOverride(iface_id=NIC, host_dev_name=_tap(plan).tap)
    return SnapshotLoad(
        snapshot_path=f"/{FILES}/{_RESTORED}/state",
        mem_backend=MemoryBackend(backend_path=f"/{FILES}/{_RESTORED}/memory"),
        network_overrides=(override,),
    )


def _tap(plan: LaunchPlan) -> TapNic:
    if not isinstance(plan.nic, TapNic):
        raise TypeError("Firecracker's guests are behind taps")

    return plan.nic
