"""What is wanted, worked out before anything is done: pure functions from requests and rows."""

from __future__ import annotations

from pathlib import Path

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import CreateVM, Image, VMSpec
from banger.api.sizes import TIB, format_size
from banger.daemon.store.rows import DiskFile
from banger.daemon.vms.machine import Machine
from banger.guest.config import GuestConfig, kernel_cmdline
from banger.host.config import Defaults
from banger.hypervisor.base import Disk, LaunchPlan
from banger.image.kernels import KernelFiles
from banger.storage.cow import device_name

# What a file on ext4 with blocks of 4 KiB can hold, nearly: kernel doc, filesystems/ext4/overview.
DISK_MAX = 15 * TIB


def resolve_spec(request: CreateVM, defaults: Defaults, image: Image) -> VMSpec:
    """The full specification of the VM that `request` asks for.

    Raises CallerError: disk_too_small when the root disk could not hold the image, invalid_size
    for a disk larger than there are.
    """
    disk_size = request.disk_size or defaults.disk_size
    root_size = request.root_size or max(defaults.root_size, image.root_size)
    check_disk_size(disk_size)
    check_disk_size(root_size)
    if root_size < image.root_size:
        raise CallerError(
            ErrorCode.DISK_TOO_SMALL,
            f"a root disk of {format_size(root_size)} is smaller than image {image.name}"
            f" ({format_size(image.root_size)})",
            hint=f"use --root-size {format_size(image.root_size)} or more",
        )

    return VMSpec(
        image=image.name,
        vcpus=request.vcpus or defaults.vcpus,
        memory=request.memory or defaults.memory,
        root_size=root_size,
        disk_size=disk_size,
        nat=request.nat,
        ports=request.ports,
        allow=request.allow,
        autostart=request.autostart,
        disk_rate=request.disk_rate,
        net_rate=request.net_rate,
    )


def check_disk_size(size: int) -> None:
    """Raise CallerError(invalid_size) for a disk of more than DISK_MAX bytes."""
    if size > DISK_MAX:
        raise CallerError(
            ErrorCode.INVALID_SIZE,
            f"a disk of {format_size(size)} is larger than banger makes",
            hint=f"ask for {format_size(DISK_MAX)} at most: space is taken only as it fills",
        )


def guest_config(machine: Machine, image: Image, authorized_key: str) -> GuestConfig:
    """The files this VM's guest gets at its next boot."""
    row = machine.row
    network = machine.site.network.guest(row)
    return GuestConfig(
        vm_id=row.id,
        hostname=row.name,
        mac=network.mac,
        address=network.address,
        prefix=network.prefix,
        gateway=network.gateway,
        dns=network.dns,
        authorized_key=authorized_key,
        host_key=machine.host_key.read_bytes(),
        host_key_public=machine.host_key_public.read_text(),
        grow_root=machine.spec.root_size > image.root_size,
    )


def launch_plan(machine: Machine, kernel: KernelFiles, *, emulated: bool) -> LaunchPlan:
    """The VMM's part of starting `machine`."""
    row = machine.row
    return LaunchPlan(
        vm_id=row.id,
        name=row.name,
        vcpus=machine.spec.vcpus,
        memory=machine.spec.memory,
        kernel=kernel.vmlinux,
        initrd=machine.initrd,
        cmdline=kernel_cmdline(emulated=emulated),
        disks=(
            disk_of("root", machine.disks.root, row.id),
            disk_of("work", machine.disks.work, row.id),
        ),
        nic=machine.site.network.nic(row),
        run_dir=machine.run_dir,
        console_log=machine.console_log,
        restore=machine.memory,
        disk_rate=machine.spec.disk_rate,
        net_rate=machine.spec.net_rate,
    )


def disk_of(serial: str, file: DiskFile, vm_id: str) -> Disk:
    """The disk that the guest of the VM `vm_id` finds by `serial`."""
    if file.format == "cow":
        path, device = Path(file.path), device_name(vm_id)
        return Disk(serial=serial, path=path, format="raw", device=device)

    return Disk(serial=serial, path=Path(file.path), format=file.format)
