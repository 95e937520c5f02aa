"""What Firecracker's vsock is on the host: one socket, behind which a real agent runs."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

from banger.channel.vsock import AGENT_PORT, SOCKET


class Device:
    """Firecracker's side of its socket; `refusals` connections find nobody in the guest."""

    def __init__(self, run_dir: Path, refusals: int = 0) -> None:
        self._guest = run_dir / "listener"
        self._refusals = refusals
        self.refused = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(run_dir / SOCKET))
        self._listener.listen(128)
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                host, _ = self._listener.accept()
            except OSError:
                return

            asked = b""
            while not asked.endswith(b"\n"):
                asked += host.recv(1)

            if asked != f"CONNECT {AGENT_PORT}\n".encode() or self.refused < self._refusals:
                self.refused += 1
                host.close()
                continue

            self._threads.append(threading.Thread(target=self._join, args=(host,)))
            self._threads[-1].start()

    def _join(self, host: socket.socket) -> None:
        with host, socket.socket(socket.AF_UNIX) as guest:
            guest.connect(str(self._guest))
            # Who asked may have gone meanwhile.
            with suppress(OSError):
                host.sendall(b"OK 1073741824\n")

            self.move(host, guest)

    def move(self, host: socket.socket, guest: socket.socket) -> None:
        """Move what comes from either end to the other, until one has ended."""
        back = threading.Thread(target=pump, args=(guest, host))
        back.start()
        pump(host, guest)
        back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)

    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
