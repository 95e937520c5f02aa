"""Installing: the program, directories and files, then both services, all of it or nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import banger
from banger.api.errors import CallerError, ErrorCode
from banger.host.files import remove_tree
from banger.install import layout, services, systemd
from banger.install.files import MODULES, host_files
from banger.install.metadata import Metadata, read_metadata
from banger.install.owner import Owner
from banger.install.program import put_program
from banger.install.requirements import require_firecracker
from banger.install.tree import Tree
from banger.privileged.direct import DirectOps
from banger.privileged.site import Site

Note = Callable[[str], None]


def install(owner: Owner, note: Note) -> None:
    """Install on this host for `owner`, or bring what is installed to this version.

    A host without what it takes is refused before anything is changed. VMs run on. `note` hears of
    each step. On failure everything is as before, and what ran before runs again. Raises
    BangerError, OSError.
    """
    systemd.require_booted()
    _require_same_owner(owner)
    found = require_firecracker(
        DirectOps(Site(owner_uid=owner.uid, owner_gid=owner.gid), lambda: None),
        layout.CONFIGURATION / "config.toml",
    )
    note(f"found Firecracker {found}")
    with contextlib.ExitStack() as undo:
        undo.callback(_return_to, _active_units())
        tree = Tree(Path("/"), undo)
        old = put_files(tree, owner, note)
        note("starting the services")
        _prepare_host(undo)
        _start(undo)
        services.require_both(banger.__version__)
        undo.pop_all()

    if old is not None:
        remove_tree(old)


def put_files(tree: Tree, owner: Owner, note: Note) -> Path | None:
    """Put all that an installation consists of into `tree`; starts nothing.

    Returns a directory that was replaced, and can be removed when nothing is taken back any more.
    """
    note(f"copying banger {banger.__version__} to {layout.PROGRAM}")
    old = put_program(tree)
    note(f"making directories for {owner.name}")
    _make_directories(tree, owner)
    tree.file(layout.METADATA, _metadata(owner).render())
    for path, content in host_files(owner).items():
        tree.file(path, content)

    return old


def _make_directories(tree: Tree, owner: Owner) -> None:
    tree.directory(layout.CONFIGURATION, 0o755)
    for path in (layout.STATE, layout.CACHE, layout.RUN):
        tree.directory(path, 0o700, owner)

    tree.directory(layout.ROOT_STATE, 0o700)
    tree.directory(layout.ROOT_RUN, 0o711)


def _metadata(owner: Owner) -> Metadata:
    return Metadata(
        owner=owner.name,
        owner_uid=owner.uid,
        owner_gid=owner.gid,
        version=banger.__version__,
        installed_at=int(time.time()),
    )


def _require_same_owner(owner: Owner) -> None:
    before = read_metadata()
    if before is None or before.owner_uid == owner.uid:
        return

    raise CallerError(
        ErrorCode.INVALID_REQUEST,
        f"banger is installed here for {before.owner}, whose VMs there may be",
        hint=f"sudo banger system uninstall --purge first, or install for {before.owner}",
    )


def _prepare_host(undo: contextlib.ExitStack) -> None:
    # A kernel with one of them built in, or without, is the doctor's to speak of.
    systemd.command("modprobe", "--all", *MODULES, check=False)
    systemd.systemctl("daemon-reload")
    units = (*layout.UNIT_NAMES, layout.GUESTS_UNIT)
    new = [unit for unit in units if systemd.state(unit).enabled != "enabled"]
    if new:
        undo.callback(systemd.systemctl, "disable", *new, check=False)
        systemd.systemctl("enable", "--quiet", *new)


def _start(undo: contextlib.ExitStack) -> None:
    undo.callback(layout.HELPER_SOCKET.unlink, missing_ok=True)
    undo.callback(systemd.systemctl, "stop", *reversed(layout.UNIT_NAMES), check=False)
    for unit in layout.UNIT_NAMES:
        systemd.restart(unit)

    # Never restarted: to stop it would stop all VMs.
    if systemd.state(layout.GUESTS_UNIT).active != "active":
        undo.callback(systemd.systemctl, "stop", layout.GUESTS_UNIT, check=False)
        systemd.systemctl("start", layout.GUESTS_UNIT)


def _active_units() -> list[str]:
    return [unit for unit in layout.UNIT_NAMES if systemd.state(unit).active == "active"]


def _return_to(active: list[str]) -> None:
    """After the files are as before: systemd reads them again, and what ran runs again."""
    systemd.systemctl("daemon-reload", check=False)
    if active:
        systemd.systemctl("restart", *active, check=False)
