"""The units, as systemd itself reads and judges them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from banger.install import layout
from banger.install.files import MODULES, host_files, kvm_group
from banger.install.owner import Owner
from banger.install.units import daemon_unit, guests_unit, helper_unit

ROOT = Path(__file__).parents[3]
SERVICES = (layout.DAEMON_UNIT, layout.HELPER_UNIT, layout.BUILD_UNIT, layout.GUESTS_UNIT)
EXPOSURE = dict(zip(SERVICES, (1.5, 4.3, 4.3, 1.5), strict=True))

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


@pytest.fixture
def host(tmp_path: Path, owner: Owner) -> Path:
    """A host's directory with the units in it, and those of systemd's that they go with."""
    for path, content in host_files(owner).items():
        place = tmp_path / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)

    units = tmp_path / "usr/lib/systemd/system"
    shutil.copytree("/usr/lib/systemd/system", units, symlinks=True)
    programs = (layout.PROGRAM / f"bin/{name}" for name in ("banger", "bangerd"))
    for name in (*programs, Path("/usr/bin/unshare")):
        program = tmp_path / name.relative_to("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)

    return tmp_path


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True)


@pytest.mark.parametrize("unit", [*SERVICES, layout.BUILD_LISTENER])
def test_systemd_has_no_complaint(host: Path, unit: str) -> None:
    done = analyze(f"--root={host}", "--man=no", "verify", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_would_complain_of_a_wrong_unit(host: Path) -> None:
    unit = host / "etc/systemd/system" / layout.DAEMON_UNIT
    unit.write_text(unit.read_text().replace("KillMode=", "KillModes="))
    assert "KillModes" in analyze(f"--root={host}", "verify", layout.DAEMON_UNIT).stderr


@pytest.mark.parametrize("unit", SERVICES)
def test_little_is_exposed(host: Path, unit: str) -> None:
    done = analyze("security", "--offline=true", host / "etc/systemd/system" / unit)
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= EXPOSURE[unit]


def test_the_helper_has_the_capabilities_that_are_documented() -> None:
    text = (ROOT / "docs/privileges.md").read_text()
    documented = re.search(r"Capabilities: `([A-Z_ ]+)`", text)
    given = re.search(r"CapabilityBoundingSet=(.*)", helper_unit())
    assert documented
    assert given
    assert given[1].replace("CAP_", "") == documented[1]


def test_the_daemon_has_none_and_is_its_owner(owner: Owner) -> None:
    lines = daemon_unit(owner, None).splitlines()
    assert "CapabilityBoundingSet=" in lines
    assert f"User={owner.name}" in lines


def test_stopping_the_helper_touches_nothing_that_it_started() -> None:
    assert "KillMode=process" in helper_unit().splitlines()


def test_the_daemon_does_not_stop_with_the_helper(owner: Owner) -> None:
    unit = daemon_unit(owner, None)
    assert f"Wants={layout.HELPER_UNIT}" in unit
    assert "Requires=" not in unit
    assert "BindsTo=" not in unit


def test_guests_are_ended_before_all_that_they_need(owner: Owner) -> None:
    lines = guests_unit(owner).splitlines()
    assert f"ExecStop={layout.PROGRAM}/bin/banger system stop-guests" in lines
    [after] = [line for line in lines if line.startswith("After=")]
    assert {layout.DAEMON_UNIT, layout.HELPER_UNIT, "network.target"} <= set(after[6:].split())


def test_stopping_either_service_stops_no_guest(owner: Owner) -> None:
    unit = guests_unit(owner)
    for word in ("Requires=", "BindsTo=", "PartOf=", "Wants="):
        assert word not in unit


def test_a_group_is_joined_only_where_the_device_has_one(tmp_path: Path, owner: Owner) -> None:
    assert kvm_group(tmp_path / "none") is None
    assert "SupplementaryGroups=kvm" in daemon_unit(owner, "kvm")
    assert "SupplementaryGroups" not in daemon_unit(owner, None)


def test_devices_that_a_unit_names_by_kind_are_loaded_before_it() -> None:
    kinds = re.findall(r"DeviceAllow=block-(\S+)", helper_unit())
    assert kinds == ["loop", "device-mapper"]
    assert {"loop", "dm_mod"} <= set(MODULES)


def test_the_runtime_directories_come_with_the_host(host: Path, owner: Owner) -> None:
    words = (host / "etc/tmpfiles.d/banger.conf").read_text().split()
    assert ["d", "/run/banger", "0700", str(owner.uid), str(owner.gid)] == words[
        (start := words.index("/run/banger") - 1) : start + 5
    ]
