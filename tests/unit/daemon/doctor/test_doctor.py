"""The doctor sees what is wrong with a host, says it in words, and says what to do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from banger.api.errors import ErrorCode, PermanentError
from banger.api.models import Check, CheckStatus, Image
from banger.daemon.doctor import programs
from banger.daemon.doctor.report import Doctor
from banger.host.paths import Paths
from banger.hypervisor import kvm
from banger.hypervisor.base import Capabilities, Hypervisor

KVM_WORKS = kvm.Verdict(True, "/dev/kvm works and the CPU has svm")
KVM_FAILS = kvm.Verdict(False, "there is no /dev/kvm")


class FakeQemu:
    """The one method the doctor calls; `found` may be an error to raise."""

    def __init__(self, found: Capabilities | PermanentError) -> None:
        self._found = found

    async def capabilities(self) -> Capabilities:
        if isinstance(self._found, PermanentError):
            raise self._found

        return self._found


def qemu(accelerator: str) -> Hypervisor:
    capabilities = Capabilities(
        name="QEMU", version="7.2", accelerator=accelerator, accelerator_reason="because"
    )
    return cast("Hypervisor", FakeQemu(capabilities))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return Paths(home, home / "state", home / "cache", home / "run")


async def examine(
    paths: Paths,
    *,
    vmm: Hypervisor | None = None,
    images: Sequence[Image] = (),
    vm_ids: Collection[str] = (),
) -> dict[str, Check]:
    async def list_images() -> Sequence[Image]:
        return images

    async def list_ids() -> Collection[str]:
        return vm_ids

    doctor = Doctor(paths, vmm or qemu("tcg"), list_images, list_ids)
    return {check.name: check for check in (await doctor.run_checks()).checks}


def image(name: str) -> Image:
    values: dict[str, Any] = {"root_size": 1, "work_size": 1, "allocated_bytes": 600 << 20}
    return Image(id="i", name=name, kernel="k", created_at=0.0, **values)


async def test_looking_changes_nothing(paths: Paths) -> None:
    await examine(paths)
    assert list(paths.config.iterdir()) == []


async def test_every_finding_that_is_not_fine_says_what_to_do(paths: Paths) -> None:
    paths.config_file.write_text("nonsense")
    vmm = FakeQemu(PermanentError(ErrorCode.HYPERVISOR_MISSING, "no QEMU", hint="install it"))
    found = await examine(paths, vmm=cast("Hypervisor", vmm))
    wrong = [check for check in found.values() if check.status is not CheckStatus.PASS]
    assert {"configuration", "hypervisor", "acceleration", "default image"} <= {
        check.name for check in wrong
    }
    assert [check.name for check in wrong if not check.fix] == []


async def test_a_missing_vmm_is_a_failure(paths: Paths) -> None:
    vmm = FakeQemu(PermanentError(ErrorCode.HYPERVISOR_MISSING, "no QEMU", hint="install it"))
    check = (await examine(paths, vmm=cast("Hypervisor", vmm)))["hypervisor"]
    assert (check.status, check.summary, check.fix) == (CheckStatus.FAIL, "no QEMU", "install it")


async def test_kvm_is_fine(paths: Paths) -> None:
    check = (await examine(paths, vmm=qemu("kvm")))["acceleration"]
    assert (check.status, check.summary) == (CheckStatus.PASS, "KVM: because")


@pytest.mark.parametrize(
    ("verdict", "words"),
    [(KVM_FAILS, "there is no /dev/kvm"), (KVM_WORKS, "though KVM would work")],
)
async def test_emulation_is_a_warning_that_says_why(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, verdict: kvm.Verdict, words: str
) -> None:
    monkeypatch.setattr("banger.hypervisor.kvm.probe", lambda: verdict)
    check = (await examine(paths))["acceleration"]
    assert check.status is CheckStatus.WARN
    assert words in check.summary


async def test_a_broken_configuration_is_a_failure_wherever_it_matters(paths: Paths) -> None:
    paths.config_file.write_text("[defaults]\nvcpus = 0")
    found = await examine(paths)
    assert found["configuration"].status is CheckStatus.FAIL
    assert "defaults.vcpus cannot be 0" in found["configuration"].summary
    assert found["hypervisor"].status is CheckStatus.PASS


async def test_defaults_are_shown_with_where_they_come_from(paths: Paths) -> None:
    paths.config_file.write_text('[defaults]\nmemory = "2G"')
    details = (await examine(paths))["configuration"].details
    assert "default memory: 2G (config)" in details
    assert "default disk_size: 8G (builtin)" in details


async def test_a_directory_that_others_can_enter_is_a_failure(paths: Paths) -> None:
    paths.state.mkdir(mode=0o755)
    check = (await examine(paths))["directories"]
    assert check.status is CheckStatus.FAIL
    assert check.fix is not None
    assert f"chmod 700 {paths.state}" in check.fix


async def test_a_configuration_that_others_can_read_is_fine_but_not_write(paths: Paths) -> None:
    paths.config.chmod(0o755)
    assert (await examine(paths))["directories"].status is CheckStatus.PASS
    paths.config.chmod(0o777)
    assert (await examine(paths))["directories"].status is CheckStatus.FAIL


async def test_programs_that_are_missing_come_with_their_packages() -> None:
    check = programs.programs("tools", {"sh": "dash", "no-such-program": "some-package"})
    assert check.status is CheckStatus.FAIL
    assert check.summary == "not installed: no-such-program"
    assert check.fix == "sudo apt-get install some-package"


async def test_the_default_image_is_found(paths: Paths) -> None:
    found = await examine(paths, images=[image("other"), image("debian-bookworm")])
    assert found["default image"].status is CheckStatus.PASS
    assert "600M" in found["default image"].summary
    missing = (await examine(paths, images=[image("other")]))["default image"]
    assert (missing.status, missing.fix) == (
        CheckStatus.WARN,
        "banger image build debian-bookworm",
    )


async def test_directories_of_no_vm_are_leftovers(paths: Paths) -> None:
    for name in ("111111111111", "222222222222"):
        (paths.vms / name).mkdir(parents=True)
        (paths.vm_run / name).mkdir(parents=True)

    paths.state.chmod(0o700)
    check = (await examine(paths, vm_ids={"111111111111"}))["leftovers"]
    assert check.status is CheckStatus.WARN
    assert set(check.details) == {
        str(paths.vms / "222222222222"),
        str(paths.vm_run / "222222222222"),
    }


async def test_a_colliding_network_is_a_warning(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "banger.daemon.doctor.settings.colliding_routes", lambda _subnet: ["10.0.0.0/8 (tun0)"]
    )
    check = (await examine(paths))["network"]
    assert check.status is CheckStatus.WARN
    assert "10.0.0.0/8 (tun0)" in check.summary


async def test_too_little_space_is_said_with_figures(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banger.daemon.doctor.machine.free_bytes", lambda _path: 2 << 30)
    check = (await examine(paths))["disk space"]
    assert (check.status, check.summary[:8]) == (CheckStatus.WARN, "2G free ")
    monkeypatch.setattr("banger.daemon.doctor.machine.free_bytes", lambda _path: 1 << 20)
    assert (await examine(paths))["disk space"].status is CheckStatus.FAIL


async def test_what_cannot_be_looked_at_does_not_hide_the_rest(paths: Paths) -> None:
    async def unreadable() -> Sequence[Image]:
        raise PermissionError(13, "Permission denied")

    async def no_vms() -> Collection[str]:
        return ()

    report = await Doctor(paths, qemu("tcg"), unreadable, no_vms).run_checks()
    found = {check.name: check for check in report.checks}
    assert found["default image"].status is CheckStatus.FAIL
    assert "Permission denied" in found["default image"].summary
    assert found["configuration"].status is CheckStatus.PASS
