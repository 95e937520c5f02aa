"""Finding the daemon, starting it once, replacing an old one, and telling why it did not start."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.unit.client.fake_daemon import FakeDaemon

from banger.api.errors import BangerError, ErrorCode
from banger.client import autostart
from banger.client.autostart import EmbeddedDaemon, connect
from banger.host.paths import Paths, default_paths

PYTHON = sys.executable

# Stands in for `python -m banger.daemon.main`: serves one socket, counts how often it was started.
DAEMON = """
import http.server, json, os, socketserver, sys, threading
home = os.environ["BANGER_HOME"]
with open(home + "/starts", "a") as starts:
    print(os.getpid(), os.getcwd(), os.environ.get("BANGER_HOST"), file=starts)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = {"version": os.environ.get("FAKE_VERSION", "0.1.0"), "pid": os.getpid()}
        if self.path == "/v1/status":
            body |= dict(started_at=0, socket="s", state_dir="d", host_path="embedded", vms=0,
                hypervisor="qemu", accelerator="tcg", running=0,
                operations=int(os.path.exists(home + "/busy")))
        self.reply(body)

    def do_POST(self):
        self.reply({})
        threading.Thread(target=self.server.shutdown).start()

    def reply(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self): return "unix"
    def log_message(self, *words): pass

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

if os.path.exists(home + "/run/bangerd.sock"):
    os.unlink(home + "/run/bangerd.sock")

server = Server(home + "/run/bangerd.sock", Handler)
os.write(int(os.environ["BANGER_READY_FD"]), b"ready\\n")
os.close(int(os.environ["BANGER_READY_FD"]))
server.serve_forever(0.01)
os.unlink(home + "/run/bangerd.sock")
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path))
    monkeypatch.delenv("BANGER_HOST", raising=False)
    be_daemon(tmp_path, monkeypatch, DAEMON)
    yield tmp_path
    for pid in started(tmp_path):
        end(pid)


@pytest.fixture
def paths(home: Path) -> Paths:
    return default_paths()


def be_daemon(home: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Make `program` what is started as the daemon."""
    script = home / "python"
    script.write_text(f"#!{PYTHON}\n{program}")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))


def started(home: Path) -> list[int]:
    starts = home / "starts"
    return (
        [int(line.split()[0]) for line in starts.read_text().splitlines()]
        if starts.exists()
        else []
    )


def end(pid: int) -> None:
    try:
        process = psutil.Process(pid)
        process.kill()
        process.wait(5)
    except psutil.NoSuchProcess:
        pass


def failure(paths: Paths) -> BangerError:
    with pytest.raises(BangerError) as caught:
        EmbeddedDaemon(paths).connect()

    return caught.value


def test_a_missing_daemon_is_started_in_a_private_place(home: Path, paths: Paths) -> None:
    assert connect().version().pid == started(home)[0]
    assert [path.stat().st_mode & 0o777 for path in (paths.run, paths.state)] == [0o700, 0o700]


def test_it_depends_neither_on_the_directory_nor_on_the_shell(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.parent)
    monkeypatch.setenv("BANGER_HOME", home.name)
    monkeypatch.setenv("PWD", "/nonsense")
    connect()
    assert (home / "starts").read_text().split()[1:] == ["/", "None"]


def test_a_running_daemon_is_used(home: Path) -> None:
    assert connect().version() == connect().version()
    assert len(started(home)) == 1


def test_a_socket_left_by_a_killed_daemon_does_not_matter(home: Path, paths: Paths) -> None:
    connect()
    end(started(home)[0])
    assert connect().version().pid == started(home)[1]


def test_twenty_at_once_start_one(home: Path) -> None:
    pids: list[int] = []
    threads = [
        threading.Thread(target=lambda: pids.append(connect().version().pid)) for _ in range(20)
    ]
    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    assert pids == started(home) * 20


def test_an_idle_daemon_of_another_version_is_replaced(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VERSION", "0.0.9")
    monkeypatch.setattr("banger.__version__", "0.0.9")
    connect()
    monkeypatch.setenv("FAKE_VERSION", "0.1.0")
    monkeypatch.setattr("banger.__version__", "0.1.0")
    told: list[str] = []
    assert connect(notify=told.append).version().version == "0.1.0"
    assert told == ["daemon restarted: 0.0.9 -> 0.1.0"]
    assert not psutil.pid_exists(started(home)[0]) or is_zombie(started(home)[0])


def is_zombie(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_busy_daemon_of_another_version_stays(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VERSION", "0.0.9")
    monkeypatch.setattr("banger.__version__", "0.0.9")
    connect()
    (home / "busy").touch()
    monkeypatch.setattr("banger.__version__", "0.1.0")
    told: list[str] = []
    assert connect(notify=told.append).version().version == "0.0.9"
    assert "stays until its 1 operation(s) are done" in told[0]
    assert len(started(home)) == 1


def test_a_daemon_is_stopped_once(home: Path, paths: Paths) -> None:
    connect()
    assert EmbeddedDaemon(paths).stop()
    assert not paths.socket.exists()
    assert not EmbeddedDaemon(paths).stop()


def test_not_starting_says_how_to_start(home: Path) -> None:
    with pytest.raises(BangerError, match="is not running") as caught:
        connect(start=False)

    assert caught.value.code is ErrorCode.DAEMON_UNREACHABLE
    assert started(home) == []


def test_what_the_daemon_says_is_the_error(
    home: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = b'{"code":"config_invalid","message":"no such key","kind":"caller","hint":"fix"}\n'
    be_daemon(
        home, monkeypatch, f"import os; os.write(int(os.environ['BANGER_READY_FD']), {answer!r})"
    )
    error = failure(paths)
    assert (error.code, error.message, error.hint) == (
        ErrorCode.CONFIG_INVALID,
        "no such key",
        "fix",
    )


def test_a_daemon_that_ends_early_shows_its_own_last_words(
    home: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths.state.mkdir(mode=0o700)
    paths.daemon_log.write_text("words of an older daemon\n")
    be_daemon(home, monkeypatch, "import sys; sys.exit('no disk\\n\\n')")
    error = failure(paths)
    assert error.code is ErrorCode.DAEMON_START_FAILED
    assert error.message == "the daemon did not start: it ended: no disk"
    assert str(paths.daemon_log) in (error.hint or "")


def test_a_daemon_that_ends_in_silence_is_not_blamed_for_old_log_lines(
    home: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths.state.mkdir(mode=0o700)
    paths.daemon_log.write_text("words of an older daemon\n")
    be_daemon(home, monkeypatch, "")
    assert failure(paths).message.endswith("it logged nothing")


def test_a_daemon_that_hangs_is_given_up_and_ended(
    home: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autostart, "START_SECONDS", 0.5)
    be_daemon(
        home,
        monkeypatch,
        "import os, time\n"
        "print('thinking', os.getpid(), flush=True)\n"
        "open(os.environ['BANGER_HOME'] + '/starts', 'w').write(f'{os.getpid()}\\n')\n"
        "time.sleep(60)",
    )
    assert "not ready after 0.5 s" in failure(paths).message
    for pid in started(home):
        wait_gone(pid)


def wait_gone(pid: int) -> None:
    while psutil.pid_exists(pid) and not is_zombie(pid):
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["run", "state"])
def test_a_directory_others_can_enter_is_refused(home: Path, paths: Paths, name: str) -> None:
    (home / name).mkdir(mode=0o755)
    (home / name).chmod(0o755)
    assert failure(paths).code is ErrorCode.SOCKET_INSECURE
    assert started(home) == []


def test_a_symlinked_directory_is_refused(home: Path, paths: Paths) -> None:
    (home / "elsewhere").mkdir(mode=0o700)
    paths.run.symlink_to(home / "elsewhere")
    assert failure(paths).code is ErrorCode.SOCKET_INSECURE


def test_a_directory_that_cannot_be_made_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    monkeypatch.setenv("BANGER_HOME", str(home / "file"))
    with pytest.raises(BangerError) as caught:
        connect()

    assert caught.value.code in (ErrorCode.DAEMON_START_FAILED, ErrorCode.SOCKET_INSECURE)


def test_a_home_that_makes_the_socket_path_too_long_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANGER_HOME", str(home / ("long" * 30)))
    with pytest.raises(BangerError, match="unix sockets allow 107"):
        connect()


@pytest.mark.parametrize("scheme", ["", "unix://"])
def test_another_host_is_only_talked_to(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    with FakeDaemon(tmp_path / "other") as daemon:
        daemon.version = "9.9.9"
        monkeypatch.setenv("BANGER_HOST", f"{scheme}{daemon.path}")
        assert connect().version().version == "9.9.9"

    with pytest.raises(BangerError) as caught:
        connect()

    assert caught.value.code is ErrorCode.DAEMON_UNREACHABLE
    assert started(home) == []


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """An installation of this user's, which has no daemon yet."""
    root = tmp_path / "i"
    paths = Paths(root / "etc", root / "lib", root / "cache", root / "run")
    paths.run.mkdir(parents=True, mode=0o700)
    monkeypatch.delenv("BANGER_HOME", raising=False)
    monkeypatch.delenv("BANGER_HOST", raising=False)
    monkeypatch.setattr(autostart, "owned_installation", lambda: paths)
    return paths


def test_the_owner_of_an_installation_talks_to_the_service(installed: Paths) -> None:
    with FakeDaemon(installed.socket) as daemon:
        assert connect().socket == installed.socket
        daemon.version = "0.0.1"
        heard: list[str] = []
        connect(notify=heard.append)

    assert "sudo banger system install" in heard[0]


def test_a_service_that_is_down_is_not_started(installed: Paths) -> None:
    with pytest.raises(BangerError) as raised:
        connect()
    assert raised.value.code is ErrorCode.DAEMON_UNREACHABLE
    assert "sudo banger system restart" in (raised.value.hint or "")
    assert list(installed.run.iterdir()) == []


def test_a_service_directory_that_others_can_enter_is_not_trusted(installed: Paths) -> None:
    installed.run.chmod(0o755)
    with pytest.raises(BangerError) as raised:
        connect()
    assert raised.value.code is ErrorCode.SOCKET_INSECURE


def test_a_home_of_ones_own_goes_before_the_service(
    installed: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "h"))
    with pytest.raises(BangerError) as raised:
        connect(start=False)
    assert raised.value.hint == "start it with: banger daemon start"
