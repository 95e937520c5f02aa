"""The disk, kernel and initrd of the smoke host: a stock Debian, built once and kept."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from banger.host import runner
from banger.host.files import remove_tree
from banger.image.claims import claim
from banger.image.isolation import isolation, remove_as_root
from banger.image.sources import host_setup

REPOSITORY = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("BANGER_SMOKE_CACHE") or REPOSITORY / ".banger" / "smoke")

SUITE = "bookworm"
DISK_BYTES = 24 * 2**30
# fmt: off
PACKAGES = (
    "bind9-dnsutils", "busybox-static", "ca-certificates", "curl", "dbus", "debian-archive-keyring",
    "dmsetup", "e2fsprogs", "initramfs-tools", "iproute2", "iptables", "iputils-ping", "kmod",
    "less", "libnss-resolve", "linux-image-cloud-amd64", "lz4", "mmdebstrap", "netbase", "nftables",
    "openssh-client", "openssh-server", "procps", "python3", "python3-venv", "strace", "sudo",
    "systemd", "systemd-resolved", "systemd-sysv", "tcpdump", "udev", "uidmap", "xz-utils", "zstd",
)
# fmt: on
_BUILDING = "building-"


@dataclass(frozen=True, slots=True)
class HostImage:
    """What a host is started from; nothing writes to it."""

    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.img"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd.img"

    @property
    def client_key(self) -> Path:
        return self.directory / "keys" / "client"

    @property
    def host_key(self) -> str:
        return (self.directory / "keys" / "host.pub").read_text().strip()


def host_image() -> HostImage:
    """The image for what this file and host.sh say now; building it takes about a minute."""
    directory = CACHE / f"host-{_digest()}"
    if not directory.is_dir():
        asyncio.run(_build(directory))

    return HostImage(directory)


def _digest() -> str:
    digest = hashlib.sha256()
    for name in ("host.sh", "image.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())

    return digest.hexdigest()[:16]


async def _build(target: Path) -> None:
    apart = await isolation()
    setup = await host_setup(SUITE)
    with claim(CACHE, _BUILDING) as output, claim(CACHE, _BUILDING) as work:
        try:
            keys = output / "keys"
            keys.mkdir()
            for name in ("client", "host"):
                await _make_key(keys / name)

            await runner.run(
                [*apart.prefix, "sh", Path(__file__).with_name("host.sh"), SUITE, _packages()],
                stdin=setup.archive(),
                env=dict(os.environ)
                | {
                    "LC_ALL": "C.UTF-8",
                    "DEBIAN_FRONTEND": "noninteractive",
                    "WORK": str(work),
                    "OUTPUT": str(output),
                    "KEYS": str(keys),
                    "SIZE": str(DISK_BYTES),
                },
                timeout=1800,
                on_line=lambda line: print(f"    {line}", flush=True),
            )
            with contextlib.suppress(OSError):
                output.rename(target)
        finally:
            await remove_as_root(work)
            if output.exists():
                remove_tree(output)


async def _make_key(path: Path) -> None:
    await runner.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "smoke", "-f", path])


def _packages() -> str:
    return ",".join(PACKAGES)
