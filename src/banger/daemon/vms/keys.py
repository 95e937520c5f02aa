"""ssh identities: one client key per installation, one host key per VM, both made on the host.

A VM's host key is in its known_hosts file before the VM first boots, so there is no moment at which
a connection has to be trusted on sight.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import deque
from pathlib import Path
from typing import NamedTuple

from banger.api.errors import BangerError
from banger.host import runner
from banger.host.files import write_atomic
from banger.host.paths import Paths, ensure_private

# As many as the children of a large fork; each is made in some 5 ms.
STOCK = 16

_REST_SECONDS = 0.5


async def make_key(path: Path, comment: str) -> None:
    """Write a new Ed25519 key pair to `path` and `path`.pub, replacing what a crash left there."""
    public = path.with_name(f"{path.name}.pub")
    _remove(path, public)
    await runner.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])


class KeyPair(NamedTuple):
    """A private key in OpenSSH's format, and its public line."""

    private: bytes
    public: str


class HostKeys:
    """New host keys. Some are made ahead, so that nobody waits for ssh-keygen; none is on disk."""

    def __init__(self) -> None:
        self._stock: deque[KeyPair] = deque()
        self._filling: asyncio.Task[None] | None = None

    async def take(self) -> KeyPair:
        """A pair nobody else has or will have."""
        pair = self._stock.popleft() if self._stock else await _new_pair()
        self.fill_later()
        return pair

    def fill_later(self) -> None:
        """Begin to make pairs in a moment, when who needed the last one has got on."""
        if self._filling is None or self._filling.done():
            self._filling = asyncio.create_task(self._fill())

    async def close(self) -> None:
        """Make no more."""
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait([self._filling])

    async def _fill(self) -> None:
        await asyncio.sleep(_REST_SECONDS)
        # Whoever needs one makes it then, and is told why that fails.
        with contextlib.suppress(BangerError, OSError):
            while len(self._stock) < STOCK:
                self._stock.append(await _new_pair())


async def _new_pair() -> KeyPair:
    with tempfile.TemporaryDirectory(prefix="banger-key-") as directory:
        path = Path(directory) / "key"
        await make_key(path, "banger")
        return KeyPair(path.read_bytes(), path.with_name("key.pub").read_text())


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


class ClientKey:
    """The key every VM of this installation lets in; made on first use."""

    def __init__(self, paths: Paths) -> None:
        self.path = paths.ssh_key
        self._lock = asyncio.Lock()

    async def public(self) -> str:
        """The public half, as a line for authorized_keys."""
        public = self.path.with_name(f"{self.path.name}.pub")
        async with self._lock:
            if not public.exists():
                await self._make()

        return public.read_text().strip()

    async def _make(self) -> None:
        ensure_private(self.path.parent)
        fresh = self.path.with_name("id_ed25519.new")
        await make_key(fresh, "banger")
        # The public half last: its presence says that the pair is complete.
        fresh.rename(self.path)
        fresh.with_name(f"{fresh.name}.pub").rename(self.path.with_name(f"{self.path.name}.pub"))


def write_known_hosts(path: Path, alias: str, public_key: str) -> None:
    """Write, not durably, the known_hosts file (sshd(8)) that vouches for `alias`."""
    kind, key, *_comment = public_key.split()
    write_atomic(path, f"{alias} {kind} {key}\n".encode(), durable=False)
