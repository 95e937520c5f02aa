"""`banger` as a whole process, on pipes or on a terminal."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

BANGER = str(Path(sys.executable).with_name("banger"))
PATIENCE = 30


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [BANGER, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(*words: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    with start(*words) as process:
        out, err = process.communicate(stdin, PATIENCE)
        return process.returncode, out, err


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *words: str, rows: int = 24, columns: int = 80) -> None:
        self.output = b""
        self.descriptor, theirs = os.openpty()
        self.resize(rows, columns)
        # setsid(1) makes its standard input the controlling terminal.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def resize(self, rows: int, columns: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, size)

    def type(self, keys: bytes) -> None:
        os.write(self.descriptor, keys)

    def read_until(self, words: bytes) -> None:
        while words not in self.output:
            assert self._read(), self.output

    def end(self) -> int:
        while self._read():
            pass

        os.close(self.descriptor)
        return self.process.wait(PATIENCE)

    def _read(self) -> bytes:
        assert select.select([self.descriptor], [], [], PATIENCE)[0], self.output
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:
            # EIO: nobody has the other side open any more.
            return b""

        self.output += data
        return data
