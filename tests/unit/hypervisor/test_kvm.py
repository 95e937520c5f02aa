"""Whether KVM is really usable, and what follows from the configuration."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from banger.api.errors import ErrorCode, PermanentError
from banger.hypervisor import kvm
from banger.hypervisor.kvm import Verdict, choose, probe

WITH_VMX = "processor\t: 0\nflags\t\t: fpu vme vmx sse\nflags\t\t: fpu vme vmx sse\n"
WITHOUT = "processor\t: 0\nflags\t\t: fpu vme sse hypervisor\n"


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(WITH_VMX)
    return path


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A file in the device's place: it opens, and what ioctl says comes from `answers`."""
    path = tmp_path / "kvm"
    path.touch()
    return path


class Kernel:
    """The kernel's side of the two ioctls."""

    def __init__(self, version: int = 12, refuses: int | None = None) -> None:
        self.version = version
        self.refuses = refuses
        self.created: list[int] = []

    def ioctl(self, _descriptor: int, request: int, _argument: int) -> int:
        if request == 0xAE00:
            return self.version

        if self.refuses is not None:
            raise OSError(self.refuses, os.strerror(self.refuses))

        self.created.append(os.open("/dev/null", os.O_RDONLY))
        return self.created[-1]


def installed(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> Kernel:
    monkeypatch.setattr(fcntl, "ioctl", kernel.ioctl)
    return kernel


def test_no_device_means_no_kvm(tmp_path: Path, cpuinfo: Path) -> None:
    verdict = probe(tmp_path / "none", cpuinfo)

    assert not verdict.usable
    assert "there is no" in verdict.reason


def test_a_device_that_is_not_kvm_is_seen_through(device: Path, cpuinfo: Path) -> None:
    verdict = probe(device, cpuinfo)

    assert not verdict.usable
    assert "not a KVM device" in verdict.reason


def test_a_device_others_own_names_the_group(
    device: Path, cpuinfo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refused)

    assert "usermod -aG kvm" in probe(device, cpuinfo).reason


def test_a_device_that_works_is_not_enough_without_the_cpu_flag(
    device: Path, cpuinfo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = installed(monkeypatch, Kernel())
    cpuinfo.write_text(WITHOUT)

    verdict = probe(device, cpuinfo)

    assert not verdict.usable
    assert "neither the vmx nor the svm flag" in verdict.reason
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kernel.created[0])


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [(Kernel(version=11), "API 11"), (Kernel(refuses=errno.EBUSY), "cannot create a VM")],
)
def test_a_kvm_that_refuses_is_not_usable(
    device: Path, cpuinfo: Path, monkeypatch: pytest.MonkeyPatch, kernel: Kernel, reason: str
) -> None:
    installed(monkeypatch, kernel)

    verdict = probe(device, cpuinfo)

    assert not verdict.usable
    assert reason in verdict.reason


def test_device_and_flag_together_are_usable(
    device: Path, cpuinfo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, Kernel())

    assert probe(device, cpuinfo) == Verdict(True, f"{device} works and the CPU has vmx")


@pytest.mark.parametrize(
    ("setting", "usable", "name"),
    [
        ("auto", True, "kvm"),
        ("auto", False, "tcg"),
        ("kvm", True, "kvm"),
        ("tcg", True, "tcg"),
        ("tcg", False, "tcg"),
    ],
)
def test_the_configuration_decides(
    setting: kvm.AcceleratorSetting, usable: bool, name: str
) -> None:
    accelerator = choose(setting, Verdict(usable, "the reason"))

    assert accelerator.name == name
    assert setting == "tcg" or "the reason" in accelerator.reason


def test_kvm_that_is_demanded_and_missing_is_refused_with_the_reason() -> None:
    with pytest.raises(PermanentError, match="there is no /dev/kvm") as raised:
        choose("kvm", Verdict(False, "there is no /dev/kvm"))

    assert raised.value.code is ErrorCode.UNSUPPORTED_HOST
    assert raised.value.hint
