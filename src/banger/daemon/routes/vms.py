"""`/v1/vms`: the life of VMs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPMethod
from typing import Annotated

from msgspec import Meta

from banger.api.errors import ErrorCode
from banger.api.models import (
    VM,
    AgentEndpoint,
    CreateVM,
    KillVM,
    Request,
    SSHEndpoint,
    UpdateVM,
    VMStats,
)
from banger.daemon.routes.endpoint import TEXT, Call, Endpoint, acts, obeys, reads, streams
from banger.daemon.routes.logfile import read_log
from banger.daemon.services import VMService

_REF = (ErrorCode.UNKNOWN_VM, ErrorCode.AMBIGUOUS_VM)
_ROOM = (ErrorCode.INSUFFICIENT_MEMORY, ErrorCode.INSUFFICIENT_DISK)
_SPEC = (
    ErrorCode.INVALID_NAME,
    ErrorCode.INVALID_SIZE,
    ErrorCode.NAME_TAKEN,
    ErrorCode.PORT_TAKEN,
    ErrorCode.DISK_TOO_SMALL,
    *_ROOM,
)


class LogsQuery(Request, frozen=True):
    """`follow`: go on with what is printed later. `tail`: begin with that many last lines."""

    follow: bool = False
    tail: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None


def vm_endpoints(vms: VMService) -> tuple[Endpoint, ...]:
    """The rows that `vms` serves."""

    async def logs(call: Call, query: LogsQuery) -> AsyncIterator[bytes]:
        path = await vms.console_log(_vm(call))
        return read_log(path, tail=query.tail, follow=query.follow)

    return (
        reads("/v1/vms", "List all VMs, by name", list[VM], lambda _: vms.list()),
        obeys(
            HTTPMethod.POST,
            "/v1/vms",
            "Create a VM, and start it unless told otherwise",
            CreateVM,
            lambda _, body: vms.create(body),
            (*_SPEC, ErrorCode.UNKNOWN_IMAGE),
        ),
        reads("/v1/vms/{vm}", "Show a VM", VM, lambda call: vms.show(_vm(call)), _REF),
        obeys(
            HTTPMethod.PATCH,
            "/v1/vms/{vm}",
            "Change a VM; disks grow, never shrink",
            UpdateVM,
            lambda call, body: vms.update(_vm(call), body),
            (*_REF, *_SPEC, ErrorCode.VM_RUNNING, ErrorCode.VM_BUSY),
        ),
        acts(
            HTTPMethod.DELETE,
            "/v1/vms/{vm}",
            "Stop a VM if it runs, and delete it with its disks",
            lambda call: vms.delete(_vm(call)),
            _REF,
        ),
        *_states(vms),
        reads(
            "/v1/vms/{vm}/ssh",
            "Say how to reach a VM by ssh",
            SSHEndpoint,
            lambda call: vms.ssh(_vm(call)),
            (*_REF, ErrorCode.VM_NOT_RUNNING),
        ),
        reads(
            "/v1/vms/{vm}/agent",
            "Say how to reach a VM's agent",
            AgentEndpoint,
            lambda call: vms.agent(_vm(call)),
            (*_REF, ErrorCode.VM_NOT_RUNNING),
        ),
        reads(
            "/v1/vms/{vm}/stats",
            "Say what a VM uses",
            VMStats,
            lambda call: vms.stats(_vm(call)),
            _REF,
        ),
        streams(
            "/v1/vms/{vm}/logs",
            "Print what a VM's console printed",
            TEXT,
            str,
            LogsQuery,
            logs,
            _REF,
        ),
    )


def _states(vms: VMService) -> tuple[Endpoint, ...]:
    """What makes a VM run, stand still, or end."""
    return (
        acts(
            HTTPMethod.POST,
            "/v1/vms/{vm}/start",
            "Start a VM",
            lambda call: vms.start(_vm(call)),
            (*_REF, *_ROOM, ErrorCode.VM_BUSY),
        ),
        acts(
            HTTPMethod.POST,
            "/v1/vms/{vm}/stop",
            "Stop a VM: sync its disks, then power off",
            lambda call: vms.stop(_vm(call)),
            (*_REF, ErrorCode.VM_BUSY),
        ),
        acts(
            HTTPMethod.POST,
            "/v1/vms/{vm}/restart",
            "Stop a VM and start it again",
            lambda call: vms.restart(_vm(call)),
            (*_REF, *_ROOM, ErrorCode.VM_BUSY),
        ),
        acts(
            HTTPMethod.POST,
            "/v1/vms/{vm}/pause",
            "Let a VM stand still; it keeps its memory",
            lambda call: vms.pause(_vm(call)),
            (*_REF, ErrorCode.VM_NOT_RUNNING, ErrorCode.VM_BUSY),
        ),
        acts(
            HTTPMethod.POST,
            "/v1/vms/{vm}/resume",
            "Let a paused VM go on",
            lambda call: vms.resume(_vm(call)),
            (*_REF, ErrorCode.VM_NOT_RUNNING, ErrorCode.VM_BUSY),
        ),
        acts(
            HTTPMethod.POST,
            "/v1/vms/{vm}/reclaim",
            "Give the host what memory a running VM does not need now",
            lambda call: vms.reclaim(_vm(call)),
            (*_REF, ErrorCode.VM_NOT_RUNNING, ErrorCode.UNSUPPORTED, ErrorCode.VM_BUSY),
        ),
        acts(
            HTTPMethod.POST,
            "/v1/vms/{vm}/suspend",
            "End a VM but keep its memory, from which its next start goes on",
            lambda call: vms.suspend(_vm(call)),
            (*_REF, *_ROOM, ErrorCode.VM_NOT_RUNNING, ErrorCode.VM_BUSY),
        ),
        obeys(
            HTTPMethod.POST,
            "/v1/vms/{vm}/kill",
            "Send a signal to a VM's VMM process",
            KillVM,
            lambda call, body: vms.kill(_vm(call), body),
            (*_REF, ErrorCode.VM_NOT_RUNNING),
        ),
    )


def _vm(call: Call) -> str:
    return call.path["vm"]
