"""Is KVM really usable? That /dev/kvm opens and even creates a VM does not mean it runs one.

On hosts that are themselves VMs without nested virtualization the device can be there all the same;
a CPU without the `vmx` or `svm` flag then fails at the guest's first instructions.
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from banger.api.errors import ErrorCode, PermanentError

AcceleratorSetting = Literal["auto", "kvm", "tcg"]

# linux/kvm.h: _IO(KVMIO, 0x00) and _IO(KVMIO, 0x01); the API version has been 12 since 2007.
_KVM_GET_API_VERSION = 0xAE00
_KVM_CREATE_VM = 0xAE01
_KVM_API_VERSION = 12

_FORBIDDEN = (errno.EACCES, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether guests can run on KVM here, and why, in words a user understands."""

    usable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What guests run on, and why."""

    name: Literal["kvm", "tcg"]
    reason: str


def probe(
    device: Path = Path("/dev/kvm"),
    cpuinfo: Path = Path("/proc/cpuinfo"),
    *,
    given: bool = False,
) -> Verdict:
    """Try KVM as far as a VMM does before its guest runs, and look at what the CPU says.

    With `given` the VMM is given the device by somebody who may open it, if we may not.
    """
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if given and error.errno in _FORBIDDEN:
            return _by_flags(device, cpuinfo)

        return Verdict(False, _not_openable(device, error))
    try:
        return _probe_open(descriptor, device, cpuinfo)
    finally:
        os.close(descriptor)


def choose(setting: AcceleratorSetting, verdict: Verdict) -> Accelerator:
    """What to run guests on when the user's configuration says `setting`.

    Raises PermanentError(unsupported_host) for a KVM that is demanded and not usable.
    """
    if setting == "tcg":
        return Accelerator("tcg", 'the configuration says accelerator = "tcg"')

    if verdict.usable:
        return Accelerator("kvm", verdict.reason)

    if setting == "auto":
        return Accelerator("tcg", f"software emulation, because {verdict.reason}")

    raise PermanentError(
        ErrorCode.UNSUPPORTED_HOST,
        f'the configuration says accelerator = "kvm", but {verdict.reason}',
        hint='set hypervisor.accelerator = "auto" in config.toml',
    )


def _not_openable(device: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"there is no {device} (virtualization is off in the firmware, or this is a VM)"

    if error.errno in _FORBIDDEN:
        return f"you may not open {device} (join its group: sudo usermod -aG kvm $USER)"

    return f"{device} cannot be opened: {error.strerror}"


def _probe_open(descriptor: int, device: Path, cpuinfo: Path) -> Verdict:
    try:
        version = fcntl.ioctl(descriptor, _KVM_GET_API_VERSION, 0)
    except OSError as error:
        return Verdict(False, f"{device} is not a KVM device: {error.strerror}")

    if version != _KVM_API_VERSION:
        return Verdict(False, f"{device} speaks KVM API {version}, not {_KVM_API_VERSION}")

    try:
        os.close(fcntl.ioctl(descriptor, _KVM_CREATE_VM, 0))
    except OSError as error:
        return Verdict(False, f"{device} cannot create a VM: {error.strerror}")

    return _by_flags(device, cpuinfo)


def _by_flags(device: Path, cpuinfo: Path) -> Verdict:
    flags = _cpu_flags(cpuinfo) & {"vmx", "svm"}
    if not flags:
        return Verdict(False, f"{device} opens, but the CPU has neither the vmx nor the svm flag")

    return Verdict(True, f"{device} works and the CPU has {' and '.join(sorted(flags))}")


def _cpu_flags(cpuinfo: Path) -> set[str]:
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())

    return set()
