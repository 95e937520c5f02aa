"""The services of an installed host: whether they are as banger installed them, and answer."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from pathlib import Path

import banger
from banger.api.models import Check
from banger.daemon.doctor.findings import failed, passed, warned
from banger.daemon.paths.leftovers import of_no_vm
from banger.host import runner
from banger.install import layout
from banger.install.files import host_files
from banger.install.metadata import Metadata, require_metadata
from banger.install.owner import find_owner
from banger.privileged.base import PrivilegedOps
from banger.privileged.ops import PROTOCOL, Hello, ListOwned, ResolveBinaries

_INSTALL = "sudo banger system install"
_RESTART = "sudo banger system restart"


async def helper(ops: PrivilegedOps) -> Check:
    """The root helper answers, and is of this version. Raises what `PrivilegedOps.call` raises."""
    greeting = await ops.call(Hello())
    if (greeting.protocol, greeting.version) != (PROTOCOL, banger.__version__):
        summary = f"the root helper is banger {greeting.version}, the daemon {banger.__version__}"
        return failed("root helper", summary, _RESTART)

    return passed("root helper", f"answers, banger {greeting.version}")


async def binaries(ops: PrivilegedOps, firecracker: str, jailer: str) -> Check:
    """Root alone could have put firecracker and jailer where they are. Raises as `helper` does."""
    found = await ops.call(ResolveBinaries(firecracker=firecracker, jailer=jailer))
    return passed("binaries", f"{found.firecracker} and {found.jailer} are root's")


async def orphans(ops: PrivilegedOps, vm_ids: Callable[[], Awaitable[Collection[str]]]) -> Check:
    """Root has nothing of VMs that are gone. Raises as `helper` does."""
    # Before and after: VMs may be made and deleted meanwhile.
    known = set(await vm_ids())
    owned = await ops.call(ListOwned())
    left = of_no_vm(owned, known | set(await vm_ids()))
    if left:
        summary = (
            f"root has {len(left)} of VMs that are gone, which the daemon removes at its start"
        )
        return warned("root's leftovers", summary, f"{_RESTART} daemon", *left)

    return passed("root's leftovers", "root has nothing of VMs that are gone")


async def owner(root: Path = Path("/")) -> Check:
    """This daemon runs as whom it was installed for."""
    installed = require_metadata(_at(root, layout.METADATA))
    summary = f"{installed.owner} (uid {installed.owner_uid})"
    if os.geteuid() != installed.owner_uid:
        return failed("owner", f"installed for {summary}, runs as uid {os.geteuid()}", _INSTALL)

    return passed("owner", summary)


async def version(root: Path = Path("/")) -> Check:
    """What is installed is what runs."""
    installed = require_metadata(_at(root, layout.METADATA)).version
    if installed != banger.__version__:
        summary = f"banger {installed} is installed, {banger.__version__} runs"
        return warned("version", summary, f"{_RESTART}, or {_INSTALL}")

    return passed("version", f"banger {installed}")


async def units(root: Path = Path("/")) -> Check:
    """Both run and start with the host, with what was hardened still so."""
    installed = require_metadata(_at(root, layout.METADATA))
    changed = await asyncio.to_thread(lambda: list(_changed(root, installed)))
    if changed:
        summary = "what banger gave to systemd is not as this version writes it"
        return warned("services", summary, _INSTALL, *changed)

    problems = [line for unit in layout.UNIT_NAMES async for line in _problems(unit)]
    if problems:
        return failed("services", "not running as they should", _RESTART, *problems)

    return passed("services", f"{', '.join(layout.UNIT_NAMES)} run and start with the host")


async def sockets(root: Path = Path("/")) -> Check:
    """Both are the owner's alone."""
    found = (_exposure(_at(root, path)) for path in (layout.SOCKET, layout.HELPER_SOCKET))
    problems = [problem for problem in found if problem]
    if problems:
        return failed("sockets", "others could use them, or nobody can", _RESTART, *problems)

    return passed("sockets", f"{layout.SOCKET} and {layout.HELPER_SOCKET} are the owner's alone")


def _changed(root: Path, installed: Metadata) -> Iterator[str]:
    for path, content in host_files(find_owner(installed.owner)).items():
        place = _at(root, path)
        try:
            text = place.read_text()
        except OSError as error:
            yield f"{place}: {error.strerror}"
        else:
            if text != content:
                yield f"{place} differs"


async def _problems(unit: str) -> AsyncIterator[str]:
    for question, wanted in (("is-active", "active"), ("is-enabled", "enabled")):
        answer = (await runner.run(["systemctl", question, unit], check=False)).text.strip()
        if answer != wanted:
            yield f"{unit} is {answer or 'unknown'}, not {wanted}"


def _exposure(path: Path) -> str | None:
    try:
        info = path.lstat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not stat.S_ISSOCK(info.st_mode):
        return f"{path} is not a socket"

    if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) != 0o600:
        return f"{path} has mode {stat.S_IMODE(info.st_mode):04o} and is uid {info.st_uid}'s"

    return None


def _at(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
