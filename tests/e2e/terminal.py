"""A pseudo-terminal with `banger` on it, as a person would have."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import termios
import time
from types import TracebackType
from typing import Self

from tests.e2e.harness import PROGRAM, Banger


class Terminal:
    """`banger ARGS` with a terminal of `rows` by `columns` as its controlling one."""

    def __init__(self, banger: Banger, *args: str, rows: int = 24, columns: int = 80) -> None:
        self.screen = b""
        self._host, guest = os.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            [PROGRAM, *args],
            stdin=guest,
            stdout=guest,
            stderr=guest,
            env=banger.env,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - the tests have no threads
        )
        os.close(guest)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._host)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._host, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._host, keys.encode())

    def expect(self, text: str, timeout: float = 120) -> str:
        """Read until `text` is on the screen; what came after it stays for the next call."""
        wanted = text.encode()
        deadline = time.monotonic() + timeout
        while wanted not in self.screen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} did not appear:\n{self.screen.decode(errors='replace')}"
            if not self._read(left):
                raise AssertionError(f"ended without {text!r}:\n{self.screen.decode()}")

        seen, _, self.screen = self.screen.partition(wanted)
        return (seen + wanted).decode(errors="replace")

    def wait(self, timeout: float = 60) -> int:
        """The exit status, once the command has ended."""
        while self._read(timeout):
            pass

        return self.process.wait(timeout)

    def _read(self, timeout: float) -> bool:
        if not select.select([self._host], [], [], timeout)[0]:
            return False

        try:
            chunk = os.read(self._host, 65536)
        except OSError:
            # EIO: nobody has the other end open any more.
            return False

        self.screen += chunk
        return bool(chunk)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
