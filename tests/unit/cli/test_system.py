"""`banger system` as a command; what it does to a host is in tests/unit/install and smoke."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.unit.cli.conftest import Banger

import banger as package
from banger.api.errors import CallerError, ErrorCode
from banger.cli import system
from banger.client import autostart
from banger.host.paths import Paths
from banger.install import layout
from banger.install.status import ServiceState, SocketState, SystemStatus, look_at_socket
from banger.install.systemd import UnitState


def service(name: str, active: str = "active", version: str | None = None) -> ServiceState:
    return ServiceState(
        unit=UnitState(name=name, loaded=True, active=active, enabled="enabled", pid=7),
        socket=SocketState(path="/run/x.sock", uid=1000, mode="0600"),
        version=version or package.__version__,
    )


def status(helper: ServiceState) -> SystemStatus:
    return SystemStatus(
        owner="alice",
        owner_uid=1000,
        version=package.__version__,
        installed_version=package.__version__,
        installed_at=0,
        daemon=service(layout.DAEMON_UNIT),
        helper=helper,
        vms=2,
        running=1,
    )


@pytest.mark.parametrize(
    ("helper", "expected"),
    [
        (service(layout.HELPER_UNIT), 0),
        (service(layout.HELPER_UNIT, active="failed"), 1),
        (service(layout.HELPER_UNIT, version="0.0.1"), 1),
    ],
)
def test_status_fails_unless_both_are_well(
    banger: Banger, monkeypatch: pytest.MonkeyPatch, helper: ServiceState, expected: int
) -> None:
    monkeypatch.setattr(system, "examine", lambda: status(helper))
    ended = banger("system", "status", "--json")
    assert ended.status == expected
    assert json.loads(ended.out)["helper"]["unit"]["active"] == helper.unit.active
    shown = banger("system", "status").out
    assert "alice (uid 1000)" in shown
    assert "2, 1 running" in shown


@pytest.mark.parametrize("command", ["install", "restart", "uninstall"])
def test_what_changes_the_host_needs_root(
    banger: Banger, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("SUDO_USER", "daemon")
    ended = banger("system", command)
    assert ended.status == 1
    assert f"hint: sudo banger system {command}" in ended.err


def test_where_nothing_is_installed_it_is_said(
    banger: Banger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing() -> SystemStatus:
        raise CallerError(ErrorCode.NOT_INSTALLED, "banger is not installed")

    monkeypatch.setattr(system, "examine", nothing)
    ended = banger("system", "status", "--json")
    assert json.loads(ended.out)["error"]["code"] == "not_installed"


def test_units_are_written_to_be_read(banger: Banger, tmp_path: Path) -> None:
    ended = banger("system", "units", "--owner", "daemon", "--output", str(tmp_path / "units"))
    assert ended.status == 0
    assert {path.name for path in (tmp_path / "units").iterdir()} == {
        "bangerd.service",
        "bangerd-root.service",
        "banger-build.socket",
        "banger-build@.service",
        "banger-guests.service",
        "tmpfiles.d-banger.conf",
        "modules-load.d-banger.conf",
    }
    assert "User=daemon" in (tmp_path / "units/bangerd.service").read_text()


def test_the_service_is_not_stopped_as_a_daemon_of_ones_own(
    banger: Banger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("BANGER_HOST")
    monkeypatch.delenv("BANGER_HOME", raising=False)
    paths = Paths(tmp_path, tmp_path, tmp_path, tmp_path)
    monkeypatch.setattr(autostart, "owned_installation", lambda: paths)
    ended = banger("daemon", "stop")
    assert ended.status == 1
    assert "systemctl stop bangerd" in ended.err


def test_a_socket_is_told_as_it_is(tmp_path: Path) -> None:
    assert look_at_socket(tmp_path / "none").problem == "No such file or directory"
    (tmp_path / "file").touch(mode=0o600)
    found = look_at_socket(tmp_path / "file")
    assert (found.mode, found.problem) == ("0600", "is not a socket")
