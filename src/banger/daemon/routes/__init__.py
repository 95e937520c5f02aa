"""The API's routes: tables of endpoints, from which routing and the OpenAPI document are made.

`endpoint` is what a row says, `decode` reads requests, `reply` writes answers; the other modules
are the tables, one for each kind of thing.
"""

from __future__ import annotations

from collections.abc import Callable

from banger.daemon.routes.daemon import daemon_endpoints
from banger.daemon.routes.endpoint import Endpoint
from banger.daemon.routes.images import image_endpoints
from banger.daemon.routes.operations import operation_endpoints
from banger.daemon.routes.snapshots import snapshot_endpoints
from banger.daemon.routes.templates import template_endpoints
from banger.daemon.routes.vms import vm_endpoints
from banger.daemon.services import Services


def all_endpoints(services: Services, shutdown: Callable[[], None]) -> tuple[Endpoint, ...]:
    """The whole API but its description; `shutdown` begins the end of the daemon."""
    return (
        *daemon_endpoints(services, shutdown),
        *vm_endpoints(services.vms),
        *snapshot_endpoints(services.snapshots),
        *template_endpoints(services.templates),
        *image_endpoints(services.images),
        *operation_endpoints(services.operations),
    )
