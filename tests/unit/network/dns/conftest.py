"""A live server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from tests.unit.network.dns.messages import zone

from banger.network.dns.limits import Limits
from banger.network.dns.server import DnsServer

GENEROUS = Limits(source_rate=1e9, source_burst=1e9, total_rate=1e9, total_burst=1e9)

Serve = Callable[..., AbstractAsyncContextManager[tuple[DnsServer, int]]]


@pytest.fixture
def serve() -> Serve:
    """Open a server for the time of a `with`; nothing may go wrong behind its back."""

    @contextlib.asynccontextmanager
    async def opened(limits: Limits = GENEROUS) -> AsyncIterator[tuple[DnsServer, int]]:
        troubles: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: troubles.append(str(context)))
        server = DnsServer(zone(), limits)
        port = server.listen("127.0.0.1", 0)
        try:
            yield server, port
        finally:
            await server.close()

        await asyncio.sleep(0)
        assert troubles == []

    return opened
