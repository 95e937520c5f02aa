"""Sockets of a VMM's, for the owner alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from banger.privileged.faults import refused
from banger.privileged.gates import paths
from banger.privileged.ops import GrantSocket
from banger.privileged.site import Site


def grant_socket(site: Site, request: GrantSocket) -> None:
    """See GrantSocket."""
    with paths.pinned(request.path, site.roots, site.owner_uid) as pin:
        info = os.fstat(pin)
        if not stat.S_ISSOCK(info.st_mode) or info.st_nlink != 1:
            raise refused(f"{request.path} is not a socket with one name")

        place = f"/proc/self/fd/{pin}"
        os.chown(place, site.owner_uid, site.owner_gid)
        Path(place).chmod(0o600)
