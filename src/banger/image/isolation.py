"""Root for a build: the host's or a user namespace's, kept apart from the host where it can be.

See unshare(1), setpriv(1), subuid(5), and PR_SET_PDEATHSIG in prctl(2).
"""

from __future__ import annotations

import asyncio
import getpass
import os
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError
from banger.host import runner
from banger.host.files import remove_tree

# The command ends with banger, even with one that is killed.
_TIED = ("setpriv", "--pdeathsig", "KILL")
_USER = ("unshare", "--map-auto", "--map-root-user")
_APART = ("--mount", "--pid", "--fork", "--kill-child=KILL")


@dataclass(frozen=True, slots=True)
class Isolation:
    """`prefix` before a command makes it root; `mounts` tells whether that root may mount."""

    prefix: tuple[str, ...]
    mounts: bool


async def isolation() -> Isolation:
    """The best this host allows. Raises PermanentError: tool_missing, unsupported_host."""
    if os.geteuid() != 0:
        await _probe_user_namespace()
        return Isolation((*_TIED, *_USER, *_APART), mounts=True)
    apart = ("unshare", *_APART)
    if (await runner.run([*apart, "true"], check=False)).status == 0:
        return Isolation((*_TIED, *apart), mounts=True)
    # Root of a container that may not mount: mmdebstrap gets by without /proc and /dev.
    return Isolation(_TIED, mounts=False)


async def remove_as_root(directory: Path) -> None:
    """Remove `directory` and all below it, also what a build left there with other owners."""
    try:
        await asyncio.to_thread(remove_tree, directory)
    except PermissionError:
        await runner.run([*_USER, "rm", "-rf", "--one-file-system", "--", directory], timeout=600)


async def _probe_user_namespace() -> None:
    runner.require("newuidmap")
    probe = await runner.run([*_USER, *_APART, "true"], check=False)
    if probe.status == 0:
        return
    raise no_namespace(getpass.getuser(), probe.complaint())


def no_namespace(user: str, complaint: str) -> PermanentError:
    """The error for a `user` who got this `complaint` instead of a user namespace."""
    complaint = complaint.removeprefix("unshare: ").removesuffix(": Success")
    hint = "allow it (sysctl kernel.apparmor_restrict_unprivileged_userns=0), or build as root"
    if "/etc/subuid" in complaint or "/etc/subgid" in complaint:
        hint = "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 " + user

    return PermanentError(
        ErrorCode.UNSUPPORTED_HOST,
        f"user {user} cannot make a user namespace, which building an image needs: {complaint}",
        hint=hint,
    )
