"""Whose installation this is, and where: the only source of uids and directories there is."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

from banger.privileged.faults import refused
from banger.privileged.gates.binaries import open_trusted

METADATA = "/etc/banger/install.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An installation. `roots` are the owner's, `jails` is root's alone, as are all its parents.

    Jails are not below a directory of the owner's, because the jailer follows symlinks as root
    and the owner of a directory can put one in the place of anything in it.
    """

    owner_uid: int
    owner_gid: int
    roots: tuple[str, ...] = ("/var/lib/banger", "/var/cache/banger", "/run/banger")
    jails: str = "/var/lib/banger-root/jail"


def installed(metadata: str = METADATA) -> Site:
    """The site that `banger system install` wrote down: integers `owner_uid` and `owner_gid`.

    Raises Fault(refused) when anyone but root could have written the file, or the owner is root.
    """
    with open_trusted(metadata) as pinned, open(f"/proc/self/fd/{pinned}", "rb") as file:  # noqa: PTH123
        try:
            content = tomllib.load(file)
        except ValueError as error:
            raise refused(f"{metadata} is not TOML: {error}") from None

    return Site(
        owner_uid=_number(content, "owner_uid", metadata),
        owner_gid=_number(content, "owner_gid", metadata),
    )


def _number(content: dict[str, object], key: str, metadata: str) -> int:
    value = content.get(key)
    # 2**32 - 1 stands for "no change" in chown(2).
    if type(value) is not int or not 0 < value < 2**32 - 1:
        raise refused(f"{metadata} has no {key} of an ordinary user")

    return value
