"""Which way into a guest there is."""

from __future__ import annotations

from pathlib import Path

from banger.channel.base import GuestChannel
from banger.channel.serial import SerialChannel
from banger.channel.vsock import SOCKET, VsockChannel


def channel_in(run_dir: Path) -> GuestChannel:
    """The way into the guest whose VMM has its sockets in `run_dir`, by what it has put there."""
    if (run_dir / SOCKET).exists():
        return VsockChannel(run_dir)

    return SerialChannel(run_dir)
