"""Answers on the wire: JSON, streams, and errors with the right status, over plain ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus

import msgspec
from starlette.types import Message, Receive, Send

from banger import __version__
from banger.api.errors import BangerError, ErrorCode, ErrorKind
from banger.api.models import ErrorReply
from banger.daemon.routes.endpoint import JSON

Header = tuple[bytes, bytes]

VERSION_HEADER = "banger-version"

_BY_CODE = {
    ErrorCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.UNKNOWN_VM: HTTPStatus.NOT_FOUND,
    ErrorCode.UNKNOWN_IMAGE: HTTPStatus.NOT_FOUND,
    ErrorCode.UNKNOWN_KERNEL: HTTPStatus.NOT_FOUND,
    ErrorCode.UNKNOWN_SNAPSHOT: HTTPStatus.NOT_FOUND,
    ErrorCode.UNKNOWN_TEMPLATE: HTTPStatus.NOT_FOUND,
    ErrorCode.UNKNOWN_OPERATION: HTTPStatus.NOT_FOUND,
    ErrorCode.AMBIGUOUS_VM: HTTPStatus.CONFLICT,
    ErrorCode.NAME_TAKEN: HTTPStatus.CONFLICT,
    ErrorCode.PORT_TAKEN: HTTPStatus.CONFLICT,
    ErrorCode.VM_BUSY: HTTPStatus.CONFLICT,
    ErrorCode.VM_RUNNING: HTTPStatus.CONFLICT,
    ErrorCode.VM_NOT_RUNNING: HTTPStatus.CONFLICT,
    ErrorCode.IMAGE_IN_USE: HTTPStatus.CONFLICT,
    ErrorCode.CANCELLED: HTTPStatus.CONFLICT,
    ErrorCode.INVALID_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.INVALID_NAME: HTTPStatus.BAD_REQUEST,
    ErrorCode.INVALID_SIZE: HTTPStatus.BAD_REQUEST,
    ErrorCode.DISK_TOO_SMALL: HTTPStatus.BAD_REQUEST,
    ErrorCode.CONFIG_INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.UNSUPPORTED_HOST: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.HYPERVISOR_MISSING: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.TOOL_MISSING: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.INSUFFICIENT_MEMORY: HTTPStatus.INSUFFICIENT_STORAGE,
    ErrorCode.INSUFFICIENT_DISK: HTTPStatus.INSUFFICIENT_STORAGE,
}

_BY_KIND = {
    ErrorKind.CALLER: HTTPStatus.BAD_REQUEST,
    ErrorKind.PERMANENT: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorKind.TRANSIENT: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorKind.OUTCOME_UNKNOWN: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def status_of(code: ErrorCode, kind: ErrorKind) -> int:
    """The status an error is sent with: one retried safely or not at all says so by its kind."""
    if kind in (ErrorKind.TRANSIENT, ErrorKind.OUTCOME_UNKNOWN):
        return _BY_KIND[kind]

    return _BY_CODE.get(code, _BY_KIND[kind])


async def send_json(send: Send, status: int, value: object, headers: Sequence[Header] = ()) -> None:
    """Send `value` as the whole answer."""
    body = msgspec.json.encode(value)
    length = (b"content-length", b"%d" % len(body))
    await send(_start(status, JSON, (length, *headers)))
    await send({"type": "http.response.body", "body": body})


async def send_error(
    send: Send, error: BangerError, status: int | None = None, headers: Sequence[Header] = ()
) -> None:
    """Send `error`, with `status` when HTTP has a more fitting one than the error's own."""
    status = status or status_of(error.code, error.kind)
    await send_json(send, status, ErrorReply(error=error.body()), headers)


async def send_stream(
    send: Send,
    receive: Receive,
    status: int,
    media: str,
    pieces: AsyncIterator[bytes],
    closing: asyncio.Event,
) -> None:
    """Send `pieces` as they come, until they end, the client leaves, or the daemon is `closing`."""
    await send(_start(status, media, ()))
    sending = asyncio.create_task(_send_pieces(send, pieces))
    ends = (
        sending,
        asyncio.create_task(_disconnected(receive)),
        asyncio.create_task(closing.wait()),
    )
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ends:
            task.cancel()

        await asyncio.wait(ends)

    if not sending.cancelled():
        sending.result()

    await send({"type": "http.response.body", "body": b""})


async def _send_pieces(send: Send, pieces: AsyncIterator[bytes]) -> None:
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(status: int, media: str, headers: Sequence[Header]) -> Message:
    own = (
        (b"content-type", media.encode()),
        (VERSION_HEADER.encode(), __version__.encode()),
    )
    return {"type": "http.response.start", "status": status, "headers": [*own, *headers]}
