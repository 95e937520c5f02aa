"""`/etc/banger/install.toml`: whose installation this is. Root writes it, everybody may read it.

The helper reads owner_uid and owner_gid by itself (`privileged/site.py`), with its own eyes.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import msgspec

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.install.layout import METADATA


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What an installation knows of itself; `installed_at` is a Unix time in seconds."""

    owner: str
    owner_uid: int
    owner_gid: int
    version: str
    installed_at: int

    def render(self) -> str:
        """The file. JSON's numbers and strings are TOML's (toml.io/en/v1.0.0, strings)."""
        lines = (
            f"{key} = {json.dumps(value)}" for key, value in msgspec.structs.asdict(self).items()
        )
        return "\n".join(("# Written by `banger system install`.", *lines, ""))


def read_metadata(path: Path = METADATA) -> Metadata | None:
    """The metadata in `path`; None when nothing is installed.

    Raises PermanentError(state_corrupt) when it is not what was written.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Metadata)
    except FileNotFoundError:
        return None
    except (ValueError, msgspec.ValidationError) as error:
        raise PermanentError(
            ErrorCode.STATE_CORRUPT,
            f"{path} is not what banger wrote: {error}",
            hint="write it anew with: sudo banger system install --owner USER",
        ) from None


def require_metadata(path: Path = METADATA) -> Metadata:
    """The same; raises CallerError(not_installed) when nothing is installed."""
    found = read_metadata(path)
    if found is None:
        raise CallerError(
            ErrorCode.NOT_INSTALLED,
            "banger is not installed as a service on this host",
            hint="sudo banger system install --owner USER",
        )

    return found
