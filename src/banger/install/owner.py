"""Who an installation is for: one ordinary user of the host."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import CallerError, ErrorCode

_HINT = "sudo banger system install --owner USER, with the user who will run VMs"


@dataclass(frozen=True, slots=True)
class Owner:
    """A user as the password file has it."""

    name: str
    uid: int
    gid: int
    home: Path


def find_owner(name: str | None, environment: Mapping[str, str] = os.environ) -> Owner:
    """The user `name`, by default who called sudo(8).

    Raises CallerError(invalid_request) when nobody is named, there is no such user, or it is root:
    VMs would then run as root, and nothing would be gained over the embedded path.
    """
    name = name or environment.get("SUDO_USER")
    if not name:
        raise CallerError(ErrorCode.INVALID_REQUEST, "it is not said who owns the VMs", hint=_HINT)

    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise CallerError(
            ErrorCode.INVALID_REQUEST, f"there is no user {name!r} here", hint=_HINT
        ) from None
    if entry.pw_uid == 0:
        raise CallerError(ErrorCode.INVALID_REQUEST, "root cannot own VMs", hint=_HINT)

    return Owner(entry.pw_name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))
