"""How an installation is, seen from outside by anybody."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

import banger
from banger.api.errors import BangerError
from banger.install import layout, services, systemd
from banger.install.metadata import require_metadata
from banger.install.systemd import UnitState


class SocketState(msgspec.Struct, frozen=True, kw_only=True):
    """A socket: who may use it, or why it cannot be told."""

    path: str
    uid: int | None = None
    mode: str | None = None
    problem: str | None = None


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """One service. `version` is what it answered, `problem` why it did not."""

    unit: UnitState
    socket: SocketState
    version: str | None
    problem: str | None = None

    @property
    def well(self) -> bool:
        return self.unit.active == "active" and self.version == banger.__version__


class SystemStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What `banger system status --json` prints; `installed_at` is a Unix time in seconds."""

    owner: str
    owner_uid: int
    version: str
    installed_version: str
    installed_at: int
    daemon: ServiceState
    helper: ServiceState
    vms: int | None = None
    running: int | None = None

    @property
    def well(self) -> bool:
        return self.daemon.well and self.helper.well


def examine() -> SystemStatus:
    """Look at both services. Raises CallerError(not_installed)."""
    installed = require_metadata()
    helper = _service(layout.HELPER_UNIT, layout.HELPER_SOCKET)
    daemon = _service(layout.DAEMON_UNIT, layout.SOCKET)
    status = services.status_or_none(services.daemon()) if daemon.version else None
    return SystemStatus(
        owner=installed.owner,
        owner_uid=installed.owner_uid,
        version=banger.__version__,
        installed_version=installed.version,
        installed_at=installed.installed_at,
        daemon=daemon,
        helper=helper,
        vms=None if status is None else status.vms,
        running=None if status is None else status.running,
    )


def look_at_socket(path: Path) -> SocketState:
    """Who may connect to `path`."""
    try:
        info = os.lstat(path)
    except OSError as error:
        return SocketState(path=str(path), problem=error.strerror)
    problem = None if stat.S_ISSOCK(info.st_mode) else "is not a socket"
    mode = f"{stat.S_IMODE(info.st_mode):04o}"
    return SocketState(path=str(path), uid=info.st_uid, mode=mode, problem=problem)


def _service(name: str, path: Path) -> ServiceState:
    unit, socket = systemd.state(name), look_at_socket(path)
    try:
        if name == layout.HELPER_UNIT:
            version = services.greet_helper(path).version
        else:
            version = services.daemon(path).version().version
    except BangerError as error:
        return ServiceState(unit=unit, socket=socket, version=None, problem=error.message)
    return ServiceState(unit=unit, socket=socket, version=version)
