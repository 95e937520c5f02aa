"""The carrier for a daemon that is root itself: the same operations behind the same gates.

Each runs in a process of its own all the same, because operations change what belongs to a whole
process: uid, mount namespace, alarms. The daemon, with its threads, can lend them none of those.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

from banger.host import runner
from banger.privileged import codec
from banger.privileged.client import understand
from banger.privileged.ops import Request
from banger.privileged.site import Site

R = TypeVar("R")

_GRACE_SECONDS = 30.0

log = logging.getLogger(__name__)


class DirectOps:
    """Calls may overlap. `operation` gives the id of the operation that a call is made for."""

    def __init__(self, site: Site, operation: Callable[[], str | None]) -> None:
        self._site = json.dumps(asdict(site))
        self._operation = operation

    async def call(self, request: Request[R]) -> R:
        """See PrivilegedOps.call."""
        done = await runner.run(
            [sys.executable, "-m", "banger.privileged.once", self._site],
            stdin=codec.encode_call(request, self._operation() or ""),
            timeout=request.limit + _GRACE_SECONDS,
            check=False,
        )
        for line in done.stderr.decode(errors="replace").splitlines():
            log.info("%s", line)

        return understand(request, done.stdout)
