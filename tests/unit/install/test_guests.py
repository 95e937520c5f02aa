"""Guests end before their host does, whoever asks them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from banger.api.errors import CallerError, ErrorCode, OutcomeUnknown, TransientError
from banger.api.models import Operation
from banger.channel.vsock import SOCKET
from banger.client.client import Client
from banger.install import guests


class Daemon:
    """A daemon's answer to the request: an error, or that it is done."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.waited = False

    def stop_guests(self) -> Operation:
        if self.error is not None:
            raise self.error

        return cast("Operation", None)

    def wait(self, _operation: Operation) -> None:
        self.waited = True


def stop(daemon: Daemon, run: Path) -> None:
    guests.stop_guests(cast("Client", daemon), run)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """The directory of one VM, whose VMM takes connections into a guest that says nothing."""
    folder = tmp_path / "deadbeef"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / SOCKET))
        listener.listen(8)
        yield tmp_path


def test_the_daemon_is_asked_first(run: Path) -> None:
    daemon = Daemon()
    stop(daemon, run)
    assert daemon.waited


def test_a_daemons_refusal_is_its_word(run: Path) -> None:
    with pytest.raises(CallerError):
        stop(Daemon(CallerError(ErrorCode.HOST_ENDING, "no")), run)


def test_without_a_daemon_a_guest_that_does_not_end_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "_GREETING_SECONDS", 0.2)
    with pytest.raises(OutcomeUnknown, match="deadbeef") as caught:
        stop(Daemon(TransientError(ErrorCode.DAEMON_UNREACHABLE, "gone")), run)

    assert caught.value.code is ErrorCode.GUEST_TIMEOUT


@pytest.mark.parametrize("folder", ["", "gone"])
def test_without_vmms_there_is_nothing_to_end(tmp_path: Path, folder: str) -> None:
    (tmp_path / "left-behind").mkdir()
    stop(Daemon(TransientError(ErrorCode.DAEMON_UNREACHABLE, "gone")), tmp_path / folder)


def test_a_vmm_that_ends_before_it_has_answered_has_ended(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / SOCKET))
    listener.listen(8)

    def greet_and_go() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            listener.close()
            heard = b""
            while b"poweroff" not in heard:
                heard += connection.recv(4096)

            # The frame of the greeting begins after the line that asks for the port.
            nonce = heard.partition(b"\n")[2][5:37]
            connection.sendall(b"OK 1\n\x11\0\0\0\x20" + nonce + b"\x11")
            connection.close()

    vmm = threading.Thread(target=greet_and_go)
    vmm.start()
    assert guests.ended_gently(tmp_path)
    vmm.join()
