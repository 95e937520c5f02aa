"""`bangerd` as a process: how it starts, that it is alone, how it ends, and what it costs."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from banger import __version__
from banger.api.errors import ErrorBody, ErrorCode, ErrorKind, TransientError
from banger.client.client import Client
from banger.daemon.server import allowed

PSS_MAX = 60 * 1024 * 1024


class Daemon:
    """A bangerd of its own below `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = home / "run" / "bangerd.sock"
        reader, writer = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "banger.daemon.main"],
            env=os.environ | {"BANGER_HOME": str(home), "BANGER_READY_FD": str(writer)},
            pass_fds=[writer],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            self.answer = pipe.read()

    @property
    def client(self) -> Client:
        return Client(self.socket)

    def error(self) -> ErrorBody:
        """What kept it from starting; the same line is on its standard error."""
        error = msgspec.json.decode(self.answer, type=ErrorBody)
        assert self.process.stderr is not None
        assert self.process.wait() == 1
        assert error.message in self.process.stderr.read().decode()
        return error

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return home


@pytest.fixture
def daemon(home: Path) -> Iterator[Daemon]:
    daemon = Daemon(home)
    yield daemon
    daemon.end()


def test_it_is_ready_when_it_says_so(daemon: Daemon) -> None:
    assert daemon.answer == b"ready\n"
    assert daemon.client.version().version == __version__
    assert daemon.client.version().pid == daemon.process.pid
    assert daemon.client.vms() == []


def test_only_its_user_gets_at_its_files(daemon: Daemon) -> None:
    mode = daemon.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    for directory in ("run", "state", "cache"):
        assert stat.S_IMODE((daemon.home / directory).stat().st_mode) == 0o700

    for path in (daemon.home / "state").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_other_users_are_refused_whatever_the_modes() -> None:
    assert allowed(0)
    assert allowed(os.geteuid())
    assert not allowed(os.geteuid() + 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_removes_the_socket(daemon: Daemon, number: int) -> None:
    daemon.process.send_signal(number)
    assert daemon.process.wait(30) == 0
    assert not daemon.socket.exists()


def test_a_request_ends_it(daemon: Daemon) -> None:
    daemon.client.shutdown()
    assert daemon.process.wait(30) == 0
    with pytest.raises(TransientError):
        daemon.client.version()


def test_a_client_that_says_nothing_does_not_keep_it_from_ending(daemon: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as half:
        silent.connect(str(daemon.socket))
        half.connect(str(daemon.socket))
        half.sendall(b"POST /v1/vms HTTP/1.1\r\nHost: b\r\nContent-Length: 10\r\n\r\n{")
        daemon.client.version()
        daemon.process.terminate()
        assert daemon.process.wait(30) == 0


def test_a_second_one_says_who_was_first(daemon: Daemon) -> None:
    second = Daemon(daemon.home)
    error = second.error()
    second.end()
    assert (error.code, error.kind) == (ErrorCode.DAEMON_START_FAILED, ErrorKind.TRANSIENT)
    assert f"pid {daemon.process.pid}" in error.message
    assert daemon.client.version().pid == daemon.process.pid


def test_after_a_kill_the_next_one_replaces_the_stale_socket(daemon: Daemon) -> None:
    daemon.process.kill()
    daemon.process.wait()
    assert daemon.socket.exists()
    second = Daemon(daemon.home)
    assert second.answer == b"ready\n"
    assert second.client.version().pid == second.process.pid
    second.end()


def test_a_corrupt_configuration_is_the_answer(home: Path) -> None:
    (home / "config.toml").write_text("log_level = 5\n")
    daemon = Daemon(home)
    assert daemon.error().code is ErrorCode.CONFIG_INVALID
    assert not daemon.socket.exists()
    daemon.end()


def test_a_corrupt_database_is_the_answer(home: Path) -> None:
    state = home / "state"
    state.mkdir(mode=0o700)
    (state / "state.db").write_bytes(b"not a database")
    daemon = Daemon(home)
    assert daemon.error().code is ErrorCode.STATE_CORRUPT
    assert (state / "state.db").read_bytes() == b"not a database"
    daemon.end()


def test_a_directory_others_can_use_is_the_answer(home: Path) -> None:
    (home / "run").mkdir(mode=0o755)
    (home / "run").chmod(0o755)
    daemon = Daemon(home)
    assert daemon.error().code is ErrorCode.SOCKET_INSECURE
    daemon.end()


def check_migrations(home: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "banger.daemon.main", "--check-migrations"],
        env=os.environ | {"BANGER_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_migrations_are_checked_by_exit_status(home: Path) -> None:
    assert check_migrations(home)[0] == 1
    assert not (home / "state").exists()
    daemon = Daemon(home)
    assert check_migrations(home) == (0, "up to date at 0002_snapshots\n")
    daemon.end()
    database = sqlite3.connect(home / "state" / "state.db")
    database.execute("INSERT INTO schema_migrations VALUES (99, 'future', 0)")
    database.commit()
    database.close()
    status, said = check_migrations(home)
    assert status == 2
    assert "newer banger (schema 99" in said


def switches(pid: int) -> int:
    """How often the process's threads have run: voluntary and other context switches."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if "ctxt_switches" in line:
                total += int(line.split()[1])

    return total


def is_still(pid: int) -> bool:
    before = switches(pid)
    time.sleep(2)
    return switches(pid) == before


def test_at_rest_it_does_nothing_and_stays_small(daemon: Daemon) -> None:
    daemon.client.status()
    # What its start left to do takes as long as the host lets it.
    assert any(is_still(daemon.process.pid) for _ in range(5))
    rollup = Path(f"/proc/{daemon.process.pid}/smaps_rollup").read_text()
    pss = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
    assert int(pss.split()[1]) * 1024 < PSS_MAX
