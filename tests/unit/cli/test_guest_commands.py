"""Commands that speak to a guest's agent: the real one, on this machine, behind a fake daemon."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import termios
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from tests.unit.channel.conftest import agent_file, run_dir
from tests.unit.channel.waiting import eventually
from tests.unit.cli.conftest import Banger
from tests.unit.client.fake_daemon import FakeDaemon, make_vm

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import AgentEndpoint, PortForward, VMState

__all__ = ["agent_file", "run_dir"]

BANGER = [sys.executable, "-c", "from banger.cli.main import main; main()"]


@pytest.fixture(autouse=True)
def guest(daemon: FakeDaemon, run_dir: Path) -> FakeDaemon:
    answer = msgspec.json.encode(AgentEndpoint(directory=str(run_dir)))
    for ref in ("dev", "aaaa00000000"):
        daemon.replies["GET", f"/v1/vms/{ref}/agent"] = lambda _: answer

    return daemon


def banger_with(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*BANGER, *words], input=stdin, capture_output=True)


def begin(*words: str, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*BANGER, *words], **{"stdout": subprocess.PIPE, **streams})


def test_streams_and_status_of_a_command_are_bangers_own() -> None:
    data = os.urandom(300_000)
    ended = banger_with(
        "vm", "exec", "dev", "--", "sh", "-c", "cat; echo err >&2; exit 42", stdin=data
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (42, data, b"err\n")


def test_options_reach_the_guest(tmp_path: Path) -> None:
    words = ["-e", "A=x y", "-w", str(tmp_path), "-u", "root", "--", "sh", "-c", 'echo "$A"; pwd']

    assert banger_with("vm", "exec", "dev", *words).stdout.decode() == f"x y\n{tmp_path}\n"


def test_a_command_may_be_left_alone(banger: Banger, tmp_path: Path) -> None:
    ended = banger("vm", "exec", "dev", "-d", "--", "sh", "-c", f"echo $$ > {tmp_path}/pid")

    assert ended.status == 0
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() == ended.out)


def test_a_command_may_be_given_a_time() -> None:
    ended = banger_with("vm", "exec", "dev", "--timeout", "0.2", "--", "sleep", "1000")

    assert ended.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["-u", "nobody-there", "--", "true"], b"the guest has no user"),
        (["-w", "relative", "--", "true"], b"cwd is not an absolute path"),
    ],
)
def test_what_the_agent_refuses_is_bangers_failure(words: list[str], complaint: bytes) -> None:
    ended = banger_with("vm", "exec", "dev", *words)

    assert ended.returncode == 125
    assert complaint in ended.stderr


def test_a_vm_that_does_not_run_is_said_so(banger: Banger, daemon: FakeDaemon) -> None:
    def refuse(_: Any) -> object:
        raise CallerError(ErrorCode.VM_NOT_RUNNING, "VM dev is stopped", hint="start it")

    daemon.replies["GET", "/v1/vms/dev/agent"] = refuse

    assert banger("vm", "exec", "dev", "--", "true").status == 125
    assert banger("vm", "cp", "dev:/x", ".").err == "banger: VM dev is stopped\nhint: start it\n"


def test_signals_are_sent_on_and_the_third_ends_banger_and_its_command() -> None:
    script = "trap 'echo got' INT; echo $$; while :; do sleep 0.05; done"
    process = begin("vm", "exec", "dev", "--", "sh", "-c", script)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"got\n"

    process.send_signal(signal.SIGINT)

    assert process.wait() == 130
    process.stdout.close()
    eventually(lambda: not psutil.pid_exists(pid))


def test_a_killed_banger_takes_its_command_along(tmp_path: Path) -> None:
    process = begin("vm", "exec", "dev", "--", "sh", "-c", "echo $$; exec sleep 1000")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate()

    eventually(lambda: not psutil.pid_exists(pid))


def test_a_command_nobody_listens_to_any_more_is_ended() -> None:
    process = begin("vm", "exec", "dev", "--", "sh", "-c", "echo $$; exec yes")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.stdout.close()

    assert process.wait() == 141
    eventually(lambda: not psutil.pid_exists(pid))


def test_complaints_nobody_hears_are_no_reason_to_end() -> None:
    script = "head -c 300000 /dev/zero >&2; echo done"
    process = begin("vm", "exec", "dev", "--", "sh", "-c", script, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    assert process.stdout is not None

    assert process.stdout.read() == b"done\n"
    assert process.wait() == 0
    process.stdout.close()


def test_output_to_a_file_is_exact(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        process = begin("vm", "exec", "dev", "--", "head", "-c", "5000000", "/dev/zero", stdout=out)
        assert process.wait() == 0

    assert (tmp_path / "out").read_bytes() == bytes(5_000_000)


class Terminal:
    """`banger vm exec dev ...` on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.screen = b""
        self.host, guest = os.openpty()
        self.resize(11, 22)
        self.before = termios.tcgetattr(guest)
        argv = ["setsid", "--ctty", "--wait", *BANGER, "vm", "exec", "dev", *words]
        self.process = subprocess.Popen(argv, stdin=guest, stdout=guest, stderr=guest)
        self.guest = guest

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.host, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.host, keys)

    def expect(self, text: bytes) -> None:
        while text not in self.screen:
            self.screen += os.read(self.host, 1024)

        self.screen = self.screen.partition(text)[2]

    def end(self) -> int:
        status = self.process.wait()
        after = termios.tcgetattr(self.guest)
        os.close(self.guest)
        os.close(self.host)
        assert after == self.before
        return status


@pytest.fixture
def shell() -> Iterator[Terminal]:
    terminal = Terminal("-e", "PS1=> ", "-e", "TERM=dumb", "--", "bash", "--norc", "-i")
    yield terminal
    terminal.process.kill()
    terminal.process.wait()


def test_a_terminal_is_a_terminal(shell: Terminal) -> None:
    shell.expect(b"> ")
    shell.type(b"stty size; tty\n")
    shell.expect(b"11 22\r\n/dev/pts/")
    shell.expect(b"> ")
    shell.resize(33, 44)
    shell.type(b"until stty size | grep -x '33 44'; do sleep 0.1; done\n")
    shell.expect(b"33 44\r\n> ")
    shell.type(b"echo the line is cooked; cat\n")
    shell.expect(b"\r\nthe line is cooked\r\n")
    shell.type(b"it runs\n")
    shell.expect(b"it runs\r\nit runs\r\n")
    shell.type(b"\x03")
    shell.expect(b"^C")
    shell.expect(b"> ")
    shell.type(b"exit 9\n")

    assert shell.end() == 9


def test_a_terminal_can_be_left(shell: Terminal) -> None:
    shell.expect(b"> ")
    shell.type(b"exec sleep 1000\n")
    shell.expect(b"1000")
    shell.type(b"\r~.")

    assert shell.end() == 128 + signal.SIGHUP


def test_files_go_in_and_out(banger: Banger, tmp_path: Path) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "file").write_text("content")
    (tmp_path / "guest").mkdir()
    (tmp_path / "back").mkdir()

    assert banger("vm", "cp", f"{tmp_path}/tree", f"dev:{tmp_path}/guest") == (0, "", "")
    assert banger("vm", "cp", f"dev:{tmp_path}/guest/tree/", f"{tmp_path}/back") == (0, "", "")
    assert banger("vm", "cp", f"dev:{tmp_path}/guest/tree", f"{tmp_path}/new") == (0, "", "")
    assert (tmp_path / "back" / "tree" / "below" / "file").read_text() == "content"
    assert (tmp_path / "new" / "below" / "file").read_text() == "content"


def test_a_dash_is_standard_input_or_output(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    place = f"dev:{tmp_path}/data"

    assert banger_with("vm", "cp", "-", place, stdin=data).returncode == 0
    assert banger_with("vm", "cp", place, "-").stdout == data
    archive = banger_with("vm", "cp", f"dev:{tmp_path}", "-").stdout
    with tarfile.open(fileobj=BytesIO(archive)) as tree:
        assert tree.getnames() == [".", "./data"]


def test_what_is_left_out_is_said(banger: Banger, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "out").symlink_to("/etc")
    os.mkfifo(tmp_path / "tree" / "pipe")
    ended = banger("vm", "cp", f"dev:{tmp_path}/tree", f"{tmp_path}/copy")

    assert ended.status == 0
    assert ended.err.splitlines() == [
        "left out the link './out': '/etc' leads out of what is copied",
        "left out './pipe': neither a file nor a directory",
    ]


@pytest.mark.parametrize("words", [("a", "b"), ("dev:/a", "dev:/b"), ("./dev:x", "y"), ("-", "-")])
def test_a_copy_is_between_here_and_a_vm(banger: Banger, words: tuple[str, str]) -> None:
    ended = banger("vm", "cp", *words)

    assert ended.status == 2
    assert "exactly one of SOURCE and TARGET is VM:PATH" in ended.err


@pytest.mark.parametrize(
    "words", [("/no/such/file", "dev:"), ("dev:/no/such/file", "."), ("dev:/etc/passwd", "/no/a/b")]
)
def test_a_copy_that_cannot_be_is_an_error(banger: Banger, words: tuple[str, str]) -> None:
    ended = banger("vm", "cp", *words)

    assert ended.status == 1
    assert len(ended.err.splitlines()) == 1


def test_ports_are_shown_with_where_they_are_reached(banger: Banger, daemon: FakeDaemon) -> None:
    with (
        socket.create_server(("0.0.0.0", 0)) as public,
        socket.create_server(("127.0.0.1", 0)) as private,
    ):
        ports = public.getsockname()[1], private.getsockname()[1]
        vm = make_vm("aaaa00000000", "dev")
        forwards = tuple(PortForward(host_port=8080, guest_port=port) for port in ports)
        spec = msgspec.structs.replace(vm.spec, ports=forwards)
        daemon.add(msgspec.structs.replace(vm, spec=spec))
        found = json.loads(banger("vm", "ports", "dev", "--json").out)
        lines = banger("vm", "ports", "dev").out.splitlines()

    # This process may listen elsewhere, too.
    ours = [one for one in found if one["pid"] == os.getpid() and one["port"] in ports]
    assert {one["port"]: one["endpoint"] for one in ours} == {
        ports[0]: "127.0.0.1:8080",
        ports[1]: None,
    }
    assert ["tcp", "0.0.0.0", str(ports[0])] in [line.split()[:3] for line in lines]


def test_waiting_for_commands_to_run(banger: Banger) -> None:
    assert banger("vm", "wait", "dev") == (0, "", "")


def test_waiting_for_the_end(banger: Banger, daemon: FakeDaemon) -> None:
    daemon.add(make_vm("aaaa00000000", "dev", VMState.STOPPED))
    assert banger("vm", "wait", "dev", "--for", "stopped").status == 0
    ended = banger("vm", "wait", "web", "--for", "stopped", "--timeout", "0.1")
    assert ended.status == 1
    assert "VM web has not come so far" in ended.err
