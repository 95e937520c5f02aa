"""The agent: all ports, and which requests there are."""

from __future__ import annotations

import posix as os
import sys

from banger.guest.agent.ending import (
    Freezer,
    serve_freeze,
    serve_poweroff,
    serve_reboot,
    serve_sync,
    serve_thaw,
)
from banger.guest.agent.fields import required
from banger.guest.agent.files import serve_get, serve_put
from banger.guest.agent.identity import serve_identity
from banger.guest.agent.loop import Loop
from banger.guest.agent.port import Port
from banger.guest.agent.programs import serve_exec
from banger.guest.agent.resuming import Kept, serve_resume
from banger.guest.agent.status import serve_health, serve_ports, serve_stats
from banger.guest.agent.system import read_text
from banger.guest.agent.text import JsonReader
from banger.guest.agent.wire import RESET, AgentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable
    from typing import Any

    from banger.guest.agent.wire import Body

DEVICES = "/sys/class/virtio-ports"
NAME_PREFIX = "banger.agent."
SCAN_SECONDS = (0.05, 0.2, 1.0, 5.0)
VSOCK = "/dev/vsock"
VSOCK_PORT = 1024

REQUESTS: dict[str, Callable[[Port, Body], Body | None]] = {
    "health": serve_health,
    "exec": serve_exec,
    "resume": serve_resume,
    "put": serve_put,
    "get": serve_get,
    "ports": serve_ports,
    "stats": serve_stats,
    "sync": serve_sync,
}
SYSTEM_REQUESTS: dict[str, Callable[[Port, Body], Body | None]] = {
    "identity": serve_identity,
    "freeze": serve_freeze,
    "thaw": serve_thaw,
    "poweroff": serve_poweroff,
    "reboot": serve_reboot,
}


class Agent:
    """All ports and what they share. `confined` refuses what would change the whole system."""

    def __init__(self, loop: Loop, *, confined: bool) -> None:
        self.loop = loop
        self.freezer = Freezer(loop)
        self.kept = Kept(loop)
        self.requests = REQUESTS if confined else {**REQUESTS, **SYSTEM_REQUESTS}
        self.opened: set[str] = set()

    def serve(self, port: Port, text: str) -> Body | None:
        """The answer, or None when it comes later, from `port.stream`."""
        try:
            request = JsonReader(text).read()
        except ValueError as error:
            raise AgentError("bad_request", f"the request is not JSON: {error}") from None

        if not isinstance(request, dict):
            raise AgentError("bad_request", "the request is not an object")

        name = required(request, "request", str)
        if name not in self.requests:
            raise AgentError("unknown_request", f"the agent knows no request {name!r}")

        return self.requests[name](port, request)

    def open_ports(self) -> None:
        """Open the virtio ports that are there by now; the kernel may still be adding them."""
        for device in os.listdir(DEVICES):
            named = read_text(f"{DEVICES}/{device}/name").startswith(NAME_PREFIX)
            if named and device not in self.opened:
                fd = os.open(f"/dev/{device}", os.O_RDWR | os.O_CLOEXEC)
                self.opened.add(device)
                # Whoever is connected already was talking to the agent before this one.
                Port(self, fd, lasting=True).send(RESET)

    def listen_to_host(self) -> None:
        """Serve the host's end of a vsock(7): others in the guest can have sockets of that kind."""
        import _socket

        listener = _socket.socket(_socket.AF_VSOCK, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        listener.bind((_socket.VMADDR_CID_ANY, VSOCK_PORT))
        self.accept_from(listener, lambda peer: peer[0] == _socket.VMADDR_CID_HOST)

    def listen(self, path: str) -> None:
        """Serve a unix socket instead: how the tests drive the agent."""
        import _socket

        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        listener.bind(path)
        self.accept_from(listener, lambda peer: True)

    def accept_from(self, listener: socket, welcome: Callable[[Any], bool]) -> None:
        listener.listen(64)

        def accept(events: int) -> None:
            while True:
                try:
                    fd, peer = listener._accept()  # type: ignore[attr-defined]
                except BlockingIOError:
                    return

                if welcome(peer):
                    Port(self, fd, lasting=False)
                else:
                    os.close(fd)

        self.loop.add(listener.fileno(), accept)


def main(arguments: list[str]) -> None:
    loop = Loop()
    agent = Agent(loop, confined=bool(arguments))
    if arguments:
        agent.listen(arguments[0])
    else:
        agent.open_ports()
        for seconds in SCAN_SECONDS:
            loop.after(seconds, agent.open_ports)

        if os.access(VSOCK, os.F_OK):
            agent.listen_to_host()

    loop.run()


if __name__ == "__main__":
    main(sys.argv[1:])
