"""What is wanted, worked out before anything is done: pure functions from requests and rows."""

from __future__ import annotations

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import CreateVM, Image, VMSpec
from banger.api.sizes import TIB, format_size
from banger.daemon.vms.leases import SSH_HOST
from banger.daemon.vms.machine import Machine
from banger.guest.config import GuestConfig, kernel_cmdline
from banger.host.config import Defaults
from banger.hypervisor.base import Disk, Forward, LaunchPlan, UserNic
from banger.image.kernels import KernelFiles

SSH_PORT = 22

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
    network = machine.site.network.guest(row.handles.address, row.handles.mac, nat=row.spec.nat)
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
        host_key_public=machine.host_key.with_name(f"{machine.host_key.name}.pub").read_text(),
        grow_root=row.spec.root_size > image.root_size,
    )


def launch_plan(machine: Machine, kernel: KernelFiles, *, emulated: bool) -> LaunchPlan:
    """The VMM's part of starting `machine`."""
    row, network = machine.row, machine.site.network
    return LaunchPlan(
        vm_id=row.id,
        name=row.name,
        vcpus=row.spec.vcpus,
        memory=row.spec.memory,
        kernel=kernel.vmlinux,
        initrd=machine.initrd,
        cmdline=kernel_cmdline(emulated=emulated),
        disks=(
            Disk(serial="root", path=machine.root_disk, format=machine.site.root_disks.format),
            Disk(serial="work", path=machine.work_disk, format="raw"),
        ),
        nic=UserNic(
            mac=row.handles.mac,
            cidr=network.cidr,
            gateway=network.gateway,
            dns=network.dns,
            address=row.handles.address,
            egress=row.spec.nat,
            forwards=_forwards(machine),
        ),
        run_dir=machine.run_dir,
        console_log=machine.console_log,
    )


def _forwards(machine: Machine) -> tuple[Forward, ...]:
    ssh = Forward(host_ip=SSH_HOST, host_port=machine.row.handles.ssh_port, guest_port=SSH_PORT)
    published = (
        Forward(
            host_ip=port.host_ip,
            host_port=port.host_port,
            guest_port=port.guest_port,
            protocol=port.protocol,
        )
        for port in machine.row.spec.ports
    )
    return (ssh, *published)
