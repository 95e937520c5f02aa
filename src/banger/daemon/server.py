"""HTTP on a unix socket: uvicorn's protocol without uvicorn's loop, which wakes ten times a second.

Nothing here runs while nobody asks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from pathlib import Path

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

log = logging.getLogger(__name__)

# Shorter than any socket's own name, whose length the kernel limits. Only the holder of the
# daemon's lock uses it.
_UNFINISHED = "new"
# struct ucred in unix(7): pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")


class Server:
    """Serves `app` on the socket `path`, to the user it runs as and to root."""

    def __init__(self, app: ASGIApp, path: Path) -> None:
        self._path = path
        self._state = ServerState()
        self._config = Config(
            app,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
        self._config.load()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen, then let the socket appear, mode 0600, in place of one left over.

        Whoever sees it is answered. Raises OSError.
        """
        unfinished = self._path.with_name(_UNFINISHED)
        unfinished.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(unfinished))
            unfinished.chmod(0o600)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(self._protocol, sock=listener, backlog=256)
            unfinished.rename(self._path)
        except BaseException:
            listener.close()
            unfinished.unlink(missing_ok=True)
            raise

    def stop_accepting(self) -> None:
        """Remove the socket and close what is idle; requests under way go on."""
        self._path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()

        for connection in list(self._state.connections):
            connection.shutdown()

    async def drain(self, timeout: float) -> None:
        """Wait up to `timeout` s for the requests under way, then cut off the rest."""
        if not self._state.tasks:
            return

        _, late = await asyncio.wait(self._state.tasks, timeout=timeout)
        for task in late:
            log.warning("a request is cut off: it took too long")
            task.cancel()

    def _protocol(self) -> asyncio.Protocol:
        return _OwnersOnly(self._config, self._state, {})


class _OwnersOnly(H11Protocol):
    """Hangs up on other users, should the modes of socket and directory ever let one through."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        if not allowed(uid):
            log.warning("refused a connection of uid %d, pid %d", uid, pid)
            transport.abort()


def allowed(uid: int) -> bool:
    """Whether the user `uid` may use this daemon: its own user may, and root."""
    return uid in (0, os.geteuid())
