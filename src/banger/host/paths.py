"""Where banger keeps things. docs/state.md says what every file below these directories means."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError

# sun_path in unix(7) holds 108 bytes including the terminating zero.
SOCKET_PATH_MAX = 107


class HostPath(StrEnum):
    """How a daemon came to be, which decides how it runs VMs.

    `embedded`: started by its user, without privileges. `system`: installed as a service, with a
    root helper beside it (docs/install.md).
    """

    EMBEDDED = "embedded"
    SYSTEM = "system"

    @property
    def renewal(self) -> str:
        """What to type to have the daemon anew, as for a configuration that was changed."""
        return "banger daemon stop" if self is HostPath.EMBEDDED else "sudo banger system restart"


@dataclass(frozen=True, slots=True)
class Paths:
    """The directories of one banger installation.

    All are 0700 and the caller's own, but for the system path's `config`, which is root's.
    """

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
    def ssh_config(self) -> Path:
        """For ~/.ssh/config to include: how `ssh <name>.vm` reaches an installed host's VMs."""
        return self.state / "ssh" / "config"

    @property
    def ssh_names(self) -> Path:
        """One known_hosts file a running VM, called as the host calls the VM."""
        return self.state / "ssh" / "names"

    @property
    def vms(self) -> Path:
        """One directory a VM, named by its id: keys, logs, suspended memory. Goes with the VM."""
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
    def disks(self) -> Path:
        """All disk layers: tops that VMs write, and what lies below them and never changes."""
        return self.state / "disks"

    @property
    def snapshots(self) -> Path:
        """One directory a snapshot, named by its id: the memory of a VM that ran."""
        return self.state / "snapshots"

    @property
    def templates(self) -> Path:
        """One directory a template, named by its key: the memory of a guest that has booted."""
        return self.state / "templates"

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
    def autostarted(self) -> Path:
        """The boot of the host in which VMs with autostart have been started last."""
        return self.run / "autostarted"

    @property
    def vm_run(self) -> Path:
        """One directory a running VM: its sockets. Short, because socket paths are."""
        return self.run / "vm"

    @property
    def template_run(self) -> Path:
        """The same for each VM that a template is being made of."""
        return self.run / "t"


def system_paths() -> Paths:
    """The directories of the system path's daemon; `banger system install` made them."""
    return Paths(
        config=Path("/etc/banger"),
        state=Path("/var/lib/banger"),
        cache=Path("/var/cache/banger"),
        run=Path("/run/banger"),
    )


def owned_installation(root: Path = Path("/")) -> Paths | None:
    """The system path's directories if this user owns what is installed; `root` is the host's.

    Told by the owner of the state, which is quicker than reading the metadata: every command asks.
    """
    paths = system_paths()
    try:
        owner = (root / paths.state.relative_to("/")).lstat().st_uid
    except OSError:
        return None
    installed = (root / paths.config.relative_to("/") / "install.toml").exists()
    return paths if installed and owner == os.geteuid() else None


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
        hint=f"chmod 700 {directory}, and chown it to yourself",
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
