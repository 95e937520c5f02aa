"""ssh identities: one client key per installation, one host key per VM, both made on the host.

A VM's host key is in its known_hosts file before the VM first boots, so there is no moment at which
a connection has to be trusted on sight.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from banger.host import runner
from banger.host.files import write_atomic
from banger.host.paths import Paths, ensure_private


async def make_key(path: Path, comment: str) -> None:
    """Write a new Ed25519 key pair to `path` and `path`.pub, replacing what a crash left there."""
    public = path.with_name(f"{path.name}.pub")
    _remove(path, public)
    await runner.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path])


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
    """Write the known_hosts file (sshd(8)) that vouches for `alias` with `public_key`."""
    kind, key, *_comment = public_key.split()
    write_atomic(path, f"{alias} {kind} {key}\n".encode(), 0o600)
