"""A program goes on, and nothing of it is lost, when a VMM resets its stream for a snapshot."""

from __future__ import annotations

import fcntl
import os
import random
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.channel.device import Device
from tests.unit.channel.waiting import eventually

# What `banger vm exec` is, but for the daemon that tells where the VM is.
_EXEC = """
import sys
from pathlib import Path
from banger.api.errors import BangerError
from banger.channel.requests import Exec
from banger.channel.terminal import run_program
from banger.channel.vsock import VsockChannel
try:
    exited = run_program(VsockChannel(Path(sys.argv[1])), Exec(argv=tuple(sys.argv[2:])))
except BangerError as error:
    sys.exit(f"{error.code}: {error}")
sys.exit(exited.status)
"""
_TICKING = "(while sleep 0.02; do echo . >&2; done) & exec cat"
FOR_EVER = 1 << 62


class ResettingDevice(Device):
    """It resets a connection when it has moved so much out of the guest.

    `cuts` are those amounts, for one connection after the other; what comes after is not reset. The
    guest hears of it at once; its host, if `silently`, not before it sends something.
    """

    def __init__(self, run_dir: Path) -> None:
        self.cuts: Iterator[int] = iter(())
        self.silently = False
        self.connections = 0
        self.resets = 0
        self._reset = threading.Event()
        super().__init__(run_dir)

    def reset(self) -> None:
        """Reset the connection there is, once the guest has said something more."""
        before = self.resets
        self._reset.set()
        eventually(lambda: self.resets > before)

    def move(self, host: socket.socket, guest: socket.socket) -> None:
        self.connections += 1
        with suppress(OSError):
            self._move(host, guest, next(self.cuts, FOR_EVER))

    def _move(self, host: socket.socket, guest: socket.socket, left: int) -> None:
        while True:
            ready, _, _ = select.select([host, guest], [], [], 0.01)
            if (left == 0 or self._reset.is_set()) and _unread(guest):
                # To close with something unread is what resets the other end of a unix socket.
                guest.close()
                self._reset.clear()
                self.resets += 1
                if self.silently:
                    host.recv(1)

                return

            if host in ready:
                data = host.recv(1 << 16)
                if not data:
                    return

                guest.sendall(data)

            if guest in ready and left:
                data = guest.recv(min(left, 1 << 16))
                if not data:
                    return

                left -= len(data)
                host.sendall(data)


def _unread(connection: socket.socket) -> bool:
    size = fcntl.ioctl(connection, termios.FIONREAD, bytes(4))
    return int.from_bytes(size, sys.byteorder) > 0


@pytest.fixture
def device(run_dir: Path) -> Iterator[ResettingDevice]:
    device = ResettingDevice(run_dir)
    yield device
    device.close()


@pytest.fixture
def start(
    run_dir: Path, device: ResettingDevice
) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts what `vm exec` does with these words."""
    started = []

    def start(*argv: str) -> subprocess.Popen[bytes]:
        # Unbuffered, so that nothing is read ahead of where a test waits.
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", _EXEC, str(run_dir), *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        )
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


Start = Callable[..., subprocess.Popen[bytes]]


@contextmanager
def ticking(start: Start) -> Iterator[subprocess.Popen[bytes]]:
    """A program that says back what it reads, and at all times has something to say."""
    with start("sh", "-c", _TICKING) as process:
        assert process.stderr is not None
        assert process.stderr.read(2) == b".\n"
        yield process


def say(process: subprocess.Popen[bytes], text: bytes) -> None:
    """Have the program say `text` back."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(text)
    heard = b""
    while len(heard) < len(text):
        piece = process.stdout.read(len(text) - len(heard))
        assert piece
        heard += piece

    assert heard == text


@pytest.mark.parametrize("silently", [False, True])
def test_a_program_goes_on_after_resets(
    device: ResettingDevice, start: Start, silently: bool
) -> None:
    device.silently = silently
    with ticking(start) as process:
        for text in (b"one\n", b"two\n", b"three\n"):
            say(process, text)
            device.reset()

        say(process, b"four\n")
        rest, ticks = process.communicate(timeout=30)

    assert (rest, process.returncode) == (b"", 0)
    assert set(ticks.split()) == {b"."}
    assert device.connections == 4


@pytest.mark.parametrize("cut", range(0, 90, 6))
def test_a_reset_at_any_moment_of_a_short_program_is_not_noticed(
    device: ResettingDevice, start: Start, tmp_path: Path, cut: int
) -> None:
    """Its greeting, its output and its end are all lost once, and it runs once."""
    device.cuts = iter([cut, cut // 2])
    script = f"echo ran >> {tmp_path}/runs; echo err >&2; cat; exit 7"
    with start("sh", "-c", script) as process:
        out, err = process.communicate(b"some input", timeout=60)

    assert (out, err, process.returncode) == (b"some input", b"err\n", 7)
    assert (tmp_path / "runs").read_text() == "ran\n"
    assert device.resets > 0


@given(
    seed=st.integers(0, 1 << 30),
    size=st.integers(1, 4 << 20),
    cuts=st.lists(st.integers(40, 1 << 20), max_size=6),
)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_byte_is_lost_or_doubled_whenever_streams_are_reset(
    device: ResettingDevice, start: Start, seed: int, size: int, cuts: list[int]
) -> None:
    device.cuts = iter(cuts)
    data = random.Random(seed).randbytes(size)
    with start("sh", "-c", "tee /dev/fd/3 3>&2") as process:
        out, err = process.communicate(data, timeout=120)

    device.cuts = iter(())
    assert process.returncode == 0
    assert out == data
    assert err == data


def test_a_signal_sent_while_there_is_no_stream_arrives(
    device: ResettingDevice, start: Start
) -> None:
    script = "trap 'echo caught; exit 3' TERM; while sleep 0.02; do echo .; done"
    with start("sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b".\n"
        # Until something else is sent nobody here knows that the stream is gone.
        device.silently = True
        device.reset()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)

    assert out.endswith(b"caught\n")
    assert process.returncode == 3


def test_whoever_is_killed_takes_the_program_along(device: ResettingDevice, start: Start) -> None:
    """That ends the connection, too, but it is no reset."""
    with start("sh", "-c", "echo $$; exec sleep 1000") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert psutil.pid_exists(pid)
        process.kill()

    eventually(lambda: not psutil.pid_exists(pid))


def test_a_program_that_was_not_kept_is_said_to_be_lost(
    device: ResettingDevice, start: Start, run_dir: Path
) -> None:
    with start("sh", "-c", "echo $PPID; while sleep 0.02; do echo .; done") as process:
        assert process.stdout is not None
        agent = int(process.stdout.readline())
        device.silently = True
        device.reset()
        # Another boot's agent has the port, and knows of nothing.
        os.kill(agent, signal.SIGSTOP)
        listener = run_dir / "listener"
        listener.rename(run_dir / "old")
        other = subprocess.Popen([*psutil.Process(agent).cmdline()])
        try:
            eventually(listener.exists)
            _, complaint = process.communicate(timeout=60)
        finally:
            os.kill(agent, signal.SIGCONT)
            other.kill()
            other.wait()

    assert complaint.startswith(b"stream_lost: ")
