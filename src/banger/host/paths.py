"""Where banger keeps things. docs/state.md says what every file below these directories means."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError

# sun_path in unix(7) holds 108 bytes including the terminating zero.
SOCKET_PATH_MAX = 107


@dataclass(frozen=True, slots=True)
class Paths:
    """The directories of one banger installation. All are 0700 and the caller's own."""

    config: Path
    state: Path
    cache: Path
    run: Path

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def database(self) -> Path:
        return self.state / "state.db"

    @property
    def ssh_key(self) -> Path:
        return self.state / "ssh" / "id_ed25519"

    @property
    def vms(self) -> Path:
        """One directory a VM, named by its id: disks, keys, logs. Removed with the VM."""
        return self.state / "vms"

    @property
    def failed_consoles(self) -> Path:
        """Console logs of VMs that never came up and were taken back."""
        return self.state / "failed"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def kernels(self) -> Path:
        return self.state / "kernels"

    @property
    def daemon_log(self) -> Path:
        return self.state / "bangerd.log"

    @property
    def socket(self) -> Path:
        return self.run / "bangerd.sock"

    @property
    def lock(self) -> Path:
        """Held by flock(2) for as long as a daemon serves these directories."""
        return self.run / "bangerd.lock"

    @property
    def vm_run(self) -> Path:
        """One directory a running VM: its sockets. Short, because socket paths are."""
        return self.run / "vm"


def default_paths() -> Paths:
    """The embedded path's directories: everything under `$BANGER_HOME` when set, else XDG's."""
    home = os.environ.get("BANGER_HOME")
    if home:
        root = Path(home).absolute()
        return Paths(root, root / "state", root / "cache", root / "run")
    # Not in $XDG_RUNTIME_DIR: that goes when its user logs out, and running VMs do not; and two
    # sessions of which one has it set would start two daemons over one state.
    state = _xdg("XDG_STATE_HOME", ".local/state")
    return Paths(
        config=_xdg("XDG_CONFIG_HOME", ".config"),
        state=state,
        cache=_xdg("XDG_CACHE_HOME", ".cache"),
        run=state / "run",
    )


def ensure_private(directory: Path) -> None:
    """Make `directory` (and parents) if missing; insist that it is ours, mode 0700 and no symlink.

    Raises PermanentError(socket_insecure): a directory others can write to lets them pose as the
    daemon or read a VM's keys.
    """
    # Parents too are made private, as the XDG base directory specification asks.
    for missing in reversed([place for place in directory.parents if not place.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)

    directory.mkdir(mode=0o700, exist_ok=True)
    problem = privacy_problem(directory)
    if problem is None:
        return

    raise PermanentError(
        ErrorCode.SOCKET_INSECURE,
        f"{directory} {problem}",
        hint=f"fix it with: chmod 700 {directory} (and chown it to yourself), or set BANGER_HOME",
    )


def privacy_problem(directory: Path, forbidden: int = 0o077) -> str | None:
    """What keeps `directory`, which exists, from being ours alone; None when nothing does.

    `forbidden` are the mode bits it must not have.
    """
    info = directory.lstat()
    if not stat.S_ISDIR(info.st_mode):
        return "is not a directory"

    if info.st_uid != os.geteuid():
        return f"belongs to uid {info.st_uid}, not to you (uid {os.geteuid()})"

    if stat.S_IMODE(info.st_mode) & forbidden:
        return f"has mode {stat.S_IMODE(info.st_mode):04o}, others can get in"

    return None


def _xdg(variable: str, fallback: str) -> Path:
    # The XDG base directory specification says to ignore relative values.
    value = os.environ.get(variable, "")
    base = Path(value) if value.startswith("/") else Path.home() / fallback
    return base / "banger"
