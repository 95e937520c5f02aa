"""The programs banger runs: the VMM, the disk tools, the ssh client."""

from __future__ import annotations

from collections.abc import Mapping

from banger.api.models import Check
from banger.daemon.doctor.findings import failed, passed, warned
from banger.host.runner import locate
from banger.hypervisor import kvm
from banger.hypervisor.base import Hypervisor

# Program -> the Debian package it is in.
_DISK_TOOLS = {
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "resize2fs": "e2fsprogs",
}
_SSH = {"ssh": "openssh-client", "ssh-keygen": "openssh-client"}


async def hypervisor(vmm: Hypervisor) -> Check:
    """There is a VMM. Raises what `Hypervisor.capabilities` raises."""
    found = await vmm.capabilities()
    return passed("hypervisor", f"{found.name} {found.version}")


async def acceleration(vmm: Hypervisor) -> Check:
    """Guests run on the processor itself, or why not. Raises as `hypervisor` does."""
    found = await vmm.capabilities()
    if found.accelerator == "kvm":
        return passed("acceleration", f"KVM: {found.accelerator_reason}")

    verdict = kvm.probe()
    if verdict.usable:
        return warned(
            "acceleration",
            f"software emulation (TCG), though KVM would work: {found.accelerator_reason}",
            'set hypervisor.accelerator = "auto" in config.toml, then: banger daemon stop',
        )

    return warned(
        "acceleration",
        f"software emulation (TCG): VMs work, but 10 to 50 times slower; {verdict.reason}",
        "use a machine with hardware virtualization, or switch it on in the firmware or the "
        "hypervisor below",
    )


async def disk_tools() -> Check:
    """Disks can be made, checked and grown."""
    return programs("disk tools", _DISK_TOOLS)


async def ssh() -> Check:
    """Guests can be reached, and keys made for them."""
    return programs("ssh", _SSH)


def programs(name: str, packages: Mapping[str, str]) -> Check:
    """Whether every program of `packages` is installed, and how to install what is not."""
    missing = [program for program in packages if locate(program) is None]
    if missing:
        return failed(name, f"not installed: {', '.join(missing)}", install(missing, packages))

    return passed(name, f"installed: {', '.join(packages)}")


def install(programs: list[str], packages: Mapping[str, str]) -> str:
    """The command that installs `programs`."""
    wanted = sorted({packages[program] for program in programs})
    return f"sudo apt-get install {' '.join(wanted)}"
