"""The API as an ASGI application: routing, reading bodies, and the one place errors end up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from http import HTTPStatus
from itertools import groupby
from typing import Any, cast

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from banger.api.errors import BangerError, CallerError, ErrorCode, OutcomeUnknown
from banger.daemon.openapi import document
from banger.daemon.routes import all_endpoints
from banger.daemon.routes.endpoint import JSON, Call, Endpoint, reads
from banger.daemon.routes.reply import send_error, send_json, send_stream
from banger.daemon.services import Services

log = logging.getLogger(__name__)

BODY_MAX = 1024 * 1024
# Of a body that is too long so much is read and dropped, so that the client gets to read why.
_DRAINED_MAX = 16 * BODY_MAX


def build_app(
    services: Services, *, shutdown: Callable[[], None], closing: asyncio.Event
) -> ASGIApp:
    """The API over `services`.

    `shutdown` is called for `POST /v1/shutdown`; streams that have no end of their own end when
    `closing` is set.
    """

    async def description(_: Call) -> dict[str, Any]:
        return document(table)

    own = reads("/openapi.json", "Describe the API", dict[str, Any], description)
    table = (*all_endpoints(services, shutdown), own)
    ordered = sorted(table, key=lambda endpoint: endpoint.path)
    routes = [
        _route(path, tuple(endpoints), closing)
        for path, endpoints in groupby(ordered, key=lambda endpoint: endpoint.path)
    ]
    return Router(_literal_first(routes), redirect_slashes=False, default=_not_found)


def _route(path: str, endpoints: Sequence[Endpoint], closing: asyncio.Event) -> _Route:
    methods = [endpoint.method.value for endpoint in endpoints]
    return _Route(path, _Resource(path, endpoints, closing), methods=methods)


class _Route(Route):
    """Leaves the answer to a wrong method to the resource; Starlette's is plain text."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class _Resource:
    """All methods of one path."""

    def __init__(self, path: str, endpoints: Sequence[Endpoint], closing: asyncio.Event) -> None:
        self._path = path
        self._endpoints = {endpoint.method.value: endpoint for endpoint in endpoints}
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            await self._refuse_method(scope, send)
            return

        try:
            answer = await endpoint.handler(await _read(scope, receive))
        except _BodyTooLongError as error:
            await send_error(send, error, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        except BangerError as error:
            log.info("%s %s: %s", scope["method"], scope["path"], error.message)
            await send_error(send, error)
        except _ClientGone:
            return
        except Exception:
            # The edge: what is a bug here must not be silence there.
            log.exception("%s %s failed unexpectedly", scope["method"], scope["path"])
            await send_error(send, _unexpected(endpoint))
        else:
            await self._answer(endpoint, answer, receive, send)

    async def _answer(
        self, endpoint: Endpoint, answer: object, receive: Receive, send: Send
    ) -> None:
        if endpoint.media == JSON:
            await send_json(send, endpoint.status, answer)
            return

        pieces = cast("AsyncIterator[bytes]", answer)
        await send_stream(send, receive, endpoint.status, endpoint.media, pieces, self._closing)

    async def _refuse_method(self, scope: Scope, send: Send) -> None:
        allowed = ", ".join(sorted(self._endpoints))
        error = CallerError(
            ErrorCode.INVALID_REQUEST,
            f"{self._path} does not know the method {scope['method'][:20]}",
            hint=f"it knows {allowed}",
        )
        headers = [(b"allow", allowed.encode())]
        await send_error(send, error, HTTPStatus.METHOD_NOT_ALLOWED, headers)


class _ClientGone(Exception):  # noqa: N818
    """The client left before it had sent its whole request."""


class _BodyTooLongError(CallerError):
    """The body is longer than any request needs to be."""

    def __init__(self) -> None:
        super().__init__(
            ErrorCode.INVALID_REQUEST,
            f"the body is longer than {BODY_MAX} bytes",
            hint="GET /openapi.json describes every request",
        )


async def _read(scope: Scope, receive: Receive) -> Call:
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone

        part = message.get("body", b"")
        size += len(part)
        more = message.get("more_body", False) and size <= _DRAINED_MAX
        if size <= BODY_MAX:
            parts.append(part)

    if size > BODY_MAX:
        raise _BodyTooLongError

    return Call(scope["path_params"], scope["query_string"], b"".join(parts))


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    error = CallerError(
        ErrorCode.NOT_FOUND,
        f"there is nothing at {scope['path'][:200]!r}",
        hint="GET /openapi.json lists what there is",
    )
    await send_error(send, error)


def _unexpected(endpoint: Endpoint) -> OutcomeUnknown:
    return OutcomeUnknown(
        ErrorCode.INTERNAL,
        f"{endpoint.method} {endpoint.path} failed for a reason banger does not know",
        hint="this is a bug; the daemon's log has the details: banger daemon status",
    )


def _literal_first(routes: list[_Route]) -> list[_Route]:
    # The first match is taken, and /v1/images/{image} matches what is sent to /v1/images/build.
    return sorted(routes, key=lambda route: route.path.count("{"))
