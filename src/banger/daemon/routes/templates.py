"""`/v1/templates`: the booted guests that new VMs start from."""

from __future__ import annotations

from http import HTTPMethod

from banger.api.errors import ErrorCode
from banger.api.models import MakeTemplate, PruneTemplates, Template
from banger.daemon.routes.endpoint import Endpoint, acts, obeys, reads
from banger.daemon.services import TemplateService


def template_endpoints(templates: TemplateService) -> tuple[Endpoint, ...]:
    """The rows that `templates` serves."""
    return (
        reads("/v1/templates", "List all templates", list[Template], lambda _: templates.list()),
        obeys(
            HTTPMethod.POST,
            "/v1/templates",
            "Boot a guest of that shape and keep it, unless there is one",
            MakeTemplate,
            lambda _, body: templates.make(body),
            (
                ErrorCode.UNKNOWN_IMAGE,
                ErrorCode.INVALID_SIZE,
                ErrorCode.DISK_TOO_SMALL,
                ErrorCode.INSUFFICIENT_MEMORY,
                ErrorCode.INSUFFICIENT_DISK,
            ),
        ),
        obeys(
            HTTPMethod.POST,
            "/v1/templates/prune",
            "Delete templates that no new VM would start from, or all",
            PruneTemplates,
            lambda _, body: templates.prune(body),
        ),
        acts(
            HTTPMethod.DELETE,
            "/v1/templates/{key}",
            "Delete a template; the VMs that were started from it stay",
            lambda call: templates.delete(call.path["key"]),
            (ErrorCode.UNKNOWN_TEMPLATE,),
        ),
    )
