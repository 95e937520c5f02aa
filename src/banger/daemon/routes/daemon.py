"""The daemon itself: version, status, doctor, shutdown."""

from __future__ import annotations

import os
from collections.abc import Callable
from http import HTTPMethod

from banger import __version__
from banger.api.errors import ErrorCode
from banger.api.models import DaemonStatus, DaemonVersion, DoctorReport, Garbage
from banger.daemon.routes.decode import decode_query
from banger.daemon.routes.endpoint import Call, Endpoint, NoQuery, acts, reads
from banger.daemon.services import Services


def daemon_endpoints(services: Services, shutdown: Callable[[], None]) -> tuple[Endpoint, ...]:
    """The rows about the daemon; `shutdown` begins its end and returns at once."""

    async def version(_: Call) -> DaemonVersion:
        return DaemonVersion(version=__version__, pid=os.getpid())

    async def stop(call: Call) -> DaemonVersion:
        decode_query(call.query, NoQuery)
        shutdown()
        return await version(call)

    async def collect(call: Call) -> Garbage:
        decode_query(call.query, NoQuery)
        return await services.gc()

    return (
        reads("/v1/version", "Say which banger this is", DaemonVersion, version),
        reads(
            "/v1/status",
            "Say how the daemon is",
            DaemonStatus,
            lambda _: services.status(),
            (ErrorCode.HYPERVISOR_MISSING,),
        ),
        reads(
            "/v1/doctor",
            "Check what this host can do",
            DoctorReport,
            lambda _: services.doctor(),
        ),
        Endpoint(
            method=HTTPMethod.POST,
            path="/v1/gc",
            summary="Remove what nothing refers to any more, and say what it was",
            handler=collect,
            answer=Garbage,
        ),
        acts(
            HTTPMethod.POST,
            "/v1/guests/stop",
            "Stop all VMs at once, as when the host shuts down; until that is done none starts",
            lambda _: services.stop_guests(),
        ),
        Endpoint(
            method=HTTPMethod.POST,
            path="/v1/shutdown",
            summary="End the daemon; VMs run on",
            handler=stop,
            answer=DaemonVersion,
            status=202,
        ),
    )
