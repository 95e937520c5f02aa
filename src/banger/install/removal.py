"""Uninstalling: first what root made for VMs, then the services, then the files."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TypeVar

from banger.api.errors import BangerError, CallerError, ErrorCode, PermanentError
from banger.host.files import remove_tree
from banger.host.paths import system_paths
from banger.install import layout, services, systemd
from banger.install.guests import stop_guests
from banger.install.metadata import require_metadata
from banger.install.setup import Note
from banger.install.tree import Tree
from banger.privileged import ops
from banger.privileged.direct import DirectOps
from banger.privileged.scope import SLICE
from banger.privileged.site import Site

_DEATH_SECONDS = 10.0
_POLL_SECONDS = 0.05
# Most that DeleteTaps takes at once.
_BATCH = 64

R = TypeVar("R")


def uninstall(note: Note, *, stop_vms: bool, purge: bool) -> None:
    """Remove everything but VMs, images and configuration, and with `purge` those too.

    Interrupted, it goes on when called again. Raises CallerError: not_installed; vm_running while
    VMs run, unless `stop_vms` says that they may be stopped.
    """
    installed = require_metadata()
    systemd.require_booted()
    site = Site(owner_uid=installed.owner_uid, owner_gid=installed.owner_gid)
    root_made = RootMade(DirectOps(site, lambda: None))
    _end_vms(root_made.vmms(), note, stop_vms=stop_vms)
    note("stopping the services")
    units = (layout.GUESTS_UNIT, *reversed(layout.UNIT_NAMES))
    systemd.systemctl("disable", "--now", *units, check=False)
    systemd.systemctl("stop", layout.BUILD_UNIT.replace("@", "@*"), check=False)
    note("removing what was made for VMs")
    root_made.remove()
    systemd.systemctl("stop", SLICE, check=False)
    note("removing files")
    remove_files(Tree(Path("/"), contextlib.ExitStack()), purge=purge)
    systemd.systemctl("daemon-reload", check=False)


def remove_files(tree: Tree, *, purge: bool) -> None:
    """Take away what `put_files` put there. The metadata goes last: without it, all is done."""
    for unit in (*layout.UNIT_NAMES, layout.BUILD_UNIT, layout.GUESTS_UNIT):
        tree.at(layout.UNITS / unit).unlink(missing_ok=True)

    for path in (layout.TMPFILES, layout.MODULES):
        tree.at(path).unlink(missing_ok=True)

    for path in (layout.RUN, layout.ROOT_RUN, layout.ROOT_STATE):
        remove_tree(tree.at(path))

    if purge:
        for path in (layout.STATE, layout.CACHE):
            remove_tree(tree.at(path))

    for link in tree.at(layout.COMMANDS).glob("banger*"):
        if link.is_symlink() and link.readlink().is_relative_to(layout.PROGRAM):
            link.unlink()

    # This program may be running from there: nothing is imported from here on.
    remove_tree(tree.at(layout.PROGRAM))
    tree.at(layout.METADATA).unlink(missing_ok=True)
    if purge:
        remove_tree(tree.at(layout.CONFIGURATION))
    else:
        with contextlib.suppress(OSError):
            tree.at(layout.CONFIGURATION).rmdir()


class RootMade:
    """What only root can make, and so only root can remove: by its mark, whoever remembers it."""

    def __init__(self, root: DirectOps) -> None:
        self._root = root

    def remove(self) -> None:
        """Remove all of it; VMMs that still live are killed. Raises BangerError."""
        owned = self._call(ops.ListOwned())
        for jail in owned.jails:
            self._end(jail)
            self._call(ops.RemoveJail(jail=jail))

        for name in owned.snapshots:
            self._call(ops.RemoveSnapshot(name=name))

        for start in range(0, len(owned.taps), _BATCH):
            self._call(ops.DeleteTaps(taps=owned.taps[start : start + _BATCH]))

        self._call(ops.RemovePolicy())
        for bridge in owned.bridges:
            # Without systemd-resolved nothing was routed.
            with contextlib.suppress(PermanentError):
                self._call(ops.RevertResolver(bridge=bridge))

            self._call(ops.RemoveBridge(bridge=bridge))

    def vmms(self) -> int:
        """How many VMMs live."""
        owned = self._call(ops.ListOwned())
        found = (self._call(ops.FindProcess(jail=jail)).process for jail in owned.jails)
        return sum(process is not None for process in found)

    def _end(self, jail: str) -> None:
        deadline = time.monotonic() + _DEATH_SECONDS
        while (process := self._call(ops.FindProcess(jail=jail)).process) is not None:
            if time.monotonic() > deadline:
                raise PermanentError(
                    ErrorCode.TOOL_FAILED, f"process {process.pid} of jail {jail} does not end"
                )

            kill = ops.SignalProcess(jail=jail, process=process, signal=ops.Signal.KILL)
            self._call(kill)
            time.sleep(_POLL_SECONDS)

    def _call(self, request: ops.Request[R]) -> R:
        return asyncio.run(self._root.call(request))


def _end_vms(running: int, note: Note, *, stop_vms: bool) -> None:
    """Counted by their VMMs: the daemon may be down, and may have forgotten some."""
    if not running:
        return

    if not stop_vms:
        raise CallerError(
            ErrorCode.VM_RUNNING,
            f"{running} VM(s) run",
            hint="stop them, or let them be stopped: sudo banger system uninstall --stop-vms",
        )

    note(f"stopping {running} VM(s)")
    # Those that cannot be stopped gently are killed with what else is removed.
    with contextlib.suppress(BangerError):
        stop_guests(services.daemon(), system_paths().vm_run)
