"""What the commands that speak to a VM's agent share."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from banger.api.errors import CallerError, ErrorCode
from banger.channel.base import GuestChannel
from banger.channel.calls import GuestCalls
from banger.channel.requests import Exec
from banger.channel.ways import channel_in
from banger.client.client import Client


def channel_to(client: Client, vm: str) -> GuestChannel:
    """The way to the agent of a running VM. Raises CallerError(vm_not_running)."""
    directory = Path(client.agent(vm).directory)
    if not os.access(directory, os.X_OK):
        raise CallerError(
            ErrorCode.INVALID_REQUEST,
            "the daemon is on another machine, or another user's",
            hint="run this command where the VM runs",
        )

    return channel_in(directory)


def run_in_guest(channel: GuestChannel, request: Exec) -> int:
    """Run a program on our own streams; its exit status, 128 + n for signal n, its own or ours."""
    from banger.channel.terminal import SignalledError, run_program

    try:
        return run_program(channel, request).status
    except SignalledError as error:
        return 128 + error.number
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


def wants_terminal(command: Sequence[str]) -> bool:
    """Whether the guest gets a terminal: a shell if we read from one, a command if all three of our
    streams are one, since a terminal would mix its outputs.
    """
    return all(map(os.isatty, (0, 1, 2) if command else (0,)))


def calls_to(client: Client, vm: str, *, patience: float = 60.0) -> GuestCalls:
    """As `channel_to`, to ask the agent something."""
    return GuestCalls(channel_to(client, vm), patience=patience)
