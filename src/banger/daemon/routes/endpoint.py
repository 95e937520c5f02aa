"""One row of a route table, and the ways to write one.

The constructors tie the type that is documented to the type the handler gets or gives, so that the
two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPMethod
from typing import TypeVar

from banger.api.errors import ErrorCode
from banger.api.models import Operation, Request
from banger.daemon.routes.decode import decode_body, decode_query

JSON = "application/json"
NDJSON = "application/x-ndjson"
TEXT = "text/plain; charset=utf-8"

Answer = TypeVar("Answer")
Wanted = TypeVar("Wanted", bound=Request)
Codes = tuple[ErrorCode, ...]


class NoQuery(Request, frozen=True):
    """For endpoints without query parameters: any is one too many."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read but not yet understood."""

    path: Mapping[str, str]
    query: bytes
    body: bytes


Handler = Callable[[Call], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What one method does to one path.

    `handler` returns an AsyncIterator of bytes exactly when `media` is not JSON. `errors` are the
    codes worth documenting; every endpoint may answer invalid_request and internal besides.
    """

    method: HTTPMethod
    path: str
    summary: str
    handler: Handler
    answer: object
    status: int = 200
    media: str = JSON
    accepts: type[Request] | None = None
    query: type[Request] = NoQuery
    errors: Codes = ()


def reads(
    path: str,
    summary: str,
    answer: type[Answer],
    handler: Callable[[Call], Awaitable[Answer]],
    errors: Codes = (),
) -> Endpoint:
    """GET `path`: a JSON value of type `answer`."""

    async def strict(call: Call) -> Answer:
        decode_query(call.query, NoQuery)
        return await handler(call)

    return Endpoint(
        method=HTTPMethod.GET,
        path=path,
        summary=summary,
        handler=strict,
        answer=answer,
        errors=errors,
    )


def selects(
    path: str,
    summary: str,
    answer: type[Answer],
    query: type[Wanted],
    handler: Callable[[Call, Wanted], Awaitable[Answer]],
    errors: Codes = (),
) -> Endpoint:
    """GET `path` with query parameters: the fields of `query`."""
    return Endpoint(
        method=HTTPMethod.GET,
        path=path,
        summary=summary,
        handler=lambda call: handler(call, decode_query(call.query, query)),
        answer=answer,
        query=query,
        errors=errors,
    )


def streams(
    path: str,
    summary: str,
    media: str,
    item: object,
    query: type[Wanted],
    handler: Callable[[Call, Wanted], Awaitable[AsyncIterator[bytes]]],
    errors: Codes = (),
) -> Endpoint:
    """GET `path`: a body that grows for as long as there is something to say."""
    return Endpoint(
        method=HTTPMethod.GET,
        path=path,
        summary=summary,
        handler=lambda call: handler(call, decode_query(call.query, query)),
        answer=item,
        media=media,
        query=query,
        errors=errors,
    )


def acts(
    method: HTTPMethod,
    path: str,
    summary: str,
    handler: Callable[[Call], Awaitable[Operation]],
    errors: Codes = (),
) -> Endpoint:
    """A change that needs no body; it is under way when the answer comes."""

    async def strict(call: Call) -> Operation:
        decode_query(call.query, NoQuery)
        return await handler(call)

    return Endpoint(
        method=method,
        path=path,
        summary=summary,
        handler=strict,
        answer=Operation,
        status=202,
        errors=errors,
    )


def obeys(
    method: HTTPMethod,
    path: str,
    summary: str,
    accepts: type[Wanted],
    handler: Callable[[Call, Wanted], Awaitable[Operation]],
    errors: Codes = (),
) -> Endpoint:
    """A change that a body of type `accepts` describes; it is under way when the answer comes."""

    async def strict(call: Call) -> Operation:
        decode_query(call.query, NoQuery)
        return await handler(call, decode_body(call.body, accepts))

    return Endpoint(
        method=method,
        path=path,
        summary=summary,
        handler=strict,
        answer=Operation,
        status=202,
        accepts=accepts,
        errors=errors,
    )
