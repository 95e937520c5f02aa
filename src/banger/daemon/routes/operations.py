"""`/v1/operations`: changes under way and done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPMethod
from typing import Annotated

import msgspec
from msgspec import Meta

from banger.api.errors import ErrorCode
from banger.api.models import Operation, Request
from banger.daemon.operations import Operations
from banger.daemon.routes.endpoint import (
    NDJSON,
    Call,
    Endpoint,
    NoQuery,
    acts,
    reads,
    selects,
    streams,
)

_ID = (ErrorCode.UNKNOWN_OPERATION,)


class OperationsQuery(Request, frozen=True):
    """`limit`: how many at most."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


def operation_endpoints(operations: Operations) -> tuple[Endpoint, ...]:
    """The rows that `operations` serves."""

    async def events(call: Call, _: NoQuery) -> AsyncIterator[bytes]:
        # An unknown one is an error, not an empty stream.
        await operations.get(_id(call))
        return _lines(operations.events(_id(call)))

    return (
        selects(
            "/v1/operations",
            "List the latest operations, newest first",
            list[Operation],
            OperationsQuery,
            lambda _, query: operations.list(query.limit),
        ),
        reads(
            "/v1/operations/{operation}",
            "Show an operation",
            Operation,
            lambda call: operations.get(_id(call)),
            _ID,
        ),
        acts(
            HTTPMethod.DELETE,
            "/v1/operations/{operation}",
            "Cancel an operation; it ends when what it did is undone",
            lambda call: operations.request_cancel(_id(call)),
            _ID,
        ),
        streams(
            "/v1/operations/{operation}/events",
            "Follow an operation to its end: one snapshot a line",
            NDJSON,
            Operation,
            NoQuery,
            events,
            _ID,
        ),
    )


async def _lines(operations: AsyncIterator[Operation]) -> AsyncIterator[bytes]:
    async for operation in operations:
        yield msgspec.json.encode(operation) + b"\n"


def _id(call: Call) -> str:
    return call.path["operation"]
