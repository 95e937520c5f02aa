"""Debian's archive for hosts that reach nobody: as this machine reaches it, signed as ever."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from banger.image.sources import host_sources, select
from smoke.host import Host
from smoke.image import CACHE, SUITE

_PORT = 8043
_POOL = CACHE / "mirror"
_PREFIX = "/debian/"
_HELPER = "/usr/lib/apt/apt-helper"


@contextlib.contextmanager
def mirror(host: Host) -> Iterator[None]:
    """For a while `host` has an apt source, on its own loopback interface. Packages are kept."""
    with tempfile.TemporaryDirectory() as indexes:
        server = _Server(_upstream(), Path(indexes))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        line = f"deb http://127.0.0.1:{_PORT}{_PREFIX} {SUITE} main"
        try:
            with host.lead_back(_PORT, server.server_port):
                host.sh(f"echo '{line}' >/etc/apt/sources.list")
                try:
                    yield
                finally:
                    host.sh("rm -f /etc/apt/sources.list")
        finally:
            server.shutdown()
            server.server_close()


def _upstream() -> str:
    """Where this machine gets the suite from."""
    found = select(asyncio.run(host_sources()), SUITE)
    assert found, f"this machine's apt has no sources for {SUITE}"
    return next(source.uri for source in found if source.release == SUITE).rstrip("/")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str, indexes: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._upstream = upstream
        self._indexes = indexes

    def fetch(self, path: str) -> Path | None:
        """The file at `path` of the archive; None when there is none."""
        # Indexes change, what is in the pool does not.
        place = (_POOL if path.startswith("pool/") else self._indexes) / path
        if place.exists():
            return place

        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.part")
        done = subprocess.run(
            [_HELPER, "download-file", f"{self._upstream}/{path}", part], capture_output=True
        )
        if done.returncode != 0:
            part.unlink(missing_ok=True)
            return None

        return part.rename(place)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        inside = self.path.startswith(_PREFIX) and ".." not in self.path
        found = self.server.fetch(self.path.removeprefix(_PREFIX).lstrip("/")) if inside else None
        if found is None:
            self.send_error(404)
            return

        self.send_response(200)
        self.send_header("Content-Length", str(found.stat().st_size))
        self.end_headers()
        self.wfile.write(found.read_bytes())

    def log_request(self, code: object = "-", size: object = "-") -> None:
        del code, size
