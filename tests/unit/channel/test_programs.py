"""Programs in a guest: the real agent on this host, driven through the real channel."""

from __future__ import annotations

import hashlib
import os
import pwd
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import psutil
import pytest
from tests.unit.channel.waiting import eventually

from banger.api.errors import CallerError, ErrorCode, TransientError
from banger.channel.calls import GuestCalls
from banger.channel.frames import WINDOW, Kind
from banger.channel.requests import Exec, Exited, request_text
from banger.channel.serial import SerialChannel
from banger.channel.session import Output, Session

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="switching users takes root")


class Ran:
    """What a program left."""

    def __init__(self) -> None:
        self.stdout = b""
        self.stderr = b""
        self.exited = Exited()

    def keep(self, kind: Kind, data: bytes) -> None:
        if kind is Kind.STDOUT:
            self.stdout += data
        else:
            self.stderr += data


class Talk(Ran):
    """A request under way, step by step."""

    def __init__(self, channel: SerialChannel, request: Exec) -> None:
        super().__init__()
        self.granting = False
        self._stream = channel.connect()
        self._stream.connection.setblocking(True)
        self.session = Session(request_text(request), aligned=self._stream.aligned)

    def __enter__(self) -> Self:
        while not self.session.welcomed:
            self.step()

        self._send()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def sizes(self) -> tuple[int, int]:
        return len(self.stdout), len(self.stderr)

    def until(self, written: bytes) -> None:
        while written not in self.stdout:
            self.step()

    def to_the_end(self) -> None:
        while not self.session.ended:
            self.step()

    def step(self) -> None:
        self._send()
        data = self._stream.connection.recv(1 << 16)
        assert data
        for event in self.session.receive(data):
            if isinstance(event, Output):
                self.keep(event.kind, event.data)
                if self.granting:
                    self.session.grant(event.kind, len(event.data))

    def _send(self) -> None:
        self._stream.connection.sendall(self.session.outgoing)
        self.session.outgoing.clear()


def run(calls: GuestCalls, request: Exec, stdin: bytes = b"") -> Ran:
    ran = Ran()
    ran.exited = calls.ask(request, Exited, source=iter([stdin] if stdin else []), sink=ran.keep)
    return ran


def shell(calls: GuestCalls, script: str, stdin: bytes = b"") -> Ran:
    return run(calls, Exec(argv=("sh", "-c", script)), stdin)


def test_streams_and_status_arrive_separate_and_exact(calls: GuestCalls) -> None:
    ran = shell(calls, "cat; echo err >&2; exit 42", stdin=bytes(range(256)))

    assert (ran.stdout, ran.stderr) == (bytes(range(256)), b"err\n")
    assert (ran.exited.code, ran.exited.signal, ran.exited.status) == (42, None, 42)


def test_death_by_a_signal_is_told(calls: GuestCalls) -> None:
    ran = shell(calls, "kill -9 $$")

    assert (ran.exited.code, ran.exited.signal, ran.exited.status) == (None, 9, 137)


@pytest.mark.parametrize(
    ("argv", "status"), [(("no-such-program",), 127), (("/etc/passwd",), 126), (("/etc",), 126)]
)
def test_what_cannot_be_run_has_the_status_of_a_shell(
    calls: GuestCalls, argv: tuple[str, ...], status: int
) -> None:
    ran = run(calls, Exec(argv=argv))

    assert ran.exited.code == status
    assert ran.stderr.startswith(f"banger: {argv[0]}: ".encode())


def test_environment_directory_and_words_arrive_as_given(calls: GuestCalls, tmp_path: Path) -> None:
    request = Exec(
        argv=("sh", "-c", 'printf "%s|%s|%s" "$A" "$PWD" "$0"', "weird \udcff\n\U0001f600 word"),
        env={"A": "a b\n\u00e9\U0001f600"},
        cwd=str(tmp_path),
    )

    expected = os.fsencode(f"a b\n\u00e9\U0001f600|{tmp_path}|weird \udcff\n\U0001f600 word")
    assert run(calls, request).stdout == expected


def test_the_environment_is_the_users_and_not_the_agents(
    calls: GuestCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = pwd.getpwuid(os.geteuid())
    names = set(shell(calls, "env | cut -d= -f1").stdout.decode().split())

    assert shell(calls, 'echo "$HOME $USER"').stdout.decode() == f"{entry.pw_dir} {entry.pw_name}\n"
    own = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG"}
    assert own <= names <= own | {"PWD", "OLDPWD", "SHLVL", "_"}


def test_no_descriptor_of_the_agent_is_inherited(calls: GuestCalls) -> None:
    assert shell(calls, "ls /proc/self/fd").stdout.split() == [b"0", b"1", b"2", b"3"]


def test_signals_that_python_ignores_work_in_programs(calls: GuestCalls) -> None:
    ran = run(calls, Exec(argv=("sh", "-c", "grep SigIgn /proc/self/status")))

    assert int(ran.stdout.split()[1], 16) == 0


@AS_ROOT
def test_a_program_runs_as_another_user(calls: GuestCalls) -> None:
    entry = pwd.getpwnam("nobody")
    request = Exec(argv=("sh", "-c", "id -u; id -g; id -G; echo $USER; pwd"), user="nobody")
    by_number = Exec(argv=("id", "-un"), user=str(entry.pw_uid))

    expected = f"{entry.pw_uid} {entry.pw_gid} {entry.pw_gid} nobody /"
    assert run(calls, request).stdout.decode().split() == expected.split()
    assert run(calls, by_number).stdout == b"nobody\n"


def test_an_unknown_user_is_the_callers_mistake(calls: GuestCalls) -> None:
    with pytest.raises(CallerError) as caught:
        run(calls, Exec(argv=("true",), user="nobody-at-all"))

    assert caught.value.code is ErrorCode.AGENT_REFUSED


def test_a_background_process_does_not_hold_the_stream(calls: GuestCalls, tmp_path: Path) -> None:
    ran = shell(calls, f"sleep 60 & echo $! > {tmp_path}/pid; echo done")

    pid = int((tmp_path / "pid").read_text())
    assert ran.stdout == b"done\n"
    assert psutil.pid_exists(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_detached_program_goes_on_without_a_stream(calls: GuestCalls, tmp_path: Path) -> None:
    script = f"sleep 0.3; echo alive > {tmp_path}/out"
    answer = calls.ask(Exec(argv=("sh", "-c", script), detach=True), Exited)

    assert answer.pid is not None
    eventually(lambda: (tmp_path / "out").exists() and (tmp_path / "out").read_text() == "alive\n")
    eventually(lambda: not psutil.pid_exists(answer.pid or 0))


def test_a_timeout_ends_the_whole_session(calls: GuestCalls, tmp_path: Path) -> None:
    script = f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/pid; wait; sleep 1000"
    ran = run(calls, Exec(argv=("sh", "-c", script), timeout=0.3))

    assert ran.exited.timed_out
    assert ran.exited.signal in (signal.SIGTERM, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(int((tmp_path / "pid").read_text())))


def test_a_program_that_does_not_read_gets_no_more_than_a_window(calls: GuestCalls) -> None:
    given = 0

    def source() -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 65536
            yield bytes(65536)

    exited = calls.ask(Exec(argv=("sleep", "0.5")), Exited, source=source())

    assert exited.code == 0
    assert given <= 2 * WINDOW


def test_input_nobody_reads_any_more_is_not_asked_for(calls: GuestCalls) -> None:
    given = 0

    def source() -> Iterator[bytes]:
        nonlocal given
        while given < 1 << 30:
            given += 65536
            yield bytes(65536)

    ask = Exec(argv=("sh", "-c", "head -c 10 | wc -c; exec <&-; sleep 0.5"))
    ran = Ran()
    ran.exited = calls.ask(ask, Exited, source=source(), sink=ran.keep)

    assert ran.stdout == b"10\n"
    assert given < 1 << 27


@pytest.mark.slow
def test_a_hundred_megabytes_are_the_same_on_the_other_side_and_back(calls: GuestCalls) -> None:
    block = random.Random(1).randbytes(1 << 20)
    up, down, size = hashlib.sha256(), hashlib.sha256(), 0

    def source() -> Iterator[bytes]:
        for number in range(100):
            data = number.to_bytes(4, "big") + block[4:]
            up.update(data)
            yield data

    def sink(kind: Kind, data: bytes) -> None:
        nonlocal size
        down.update(data)
        size += len(data)

    assert calls.ask(Exec(argv=("cat",)), Exited, source=source(), sink=sink).code == 0
    assert size == 100 << 20
    assert up.digest() == down.digest()


def test_both_outputs_flow_although_one_is_not_taken(channel: SerialChannel) -> None:
    script = "head -c 3000000 /dev/zero & head -c 500000 /dev/zero >&2; wait"
    with Talk(channel, Exec(argv=("sh", "-c", script))) as talk:
        while talk.sizes() != (WINDOW, 500000):
            talk.step()

        talk.session.grant(Kind.STDOUT, WINDOW)
        talk.granting = True
        talk.to_the_end()

    assert talk.sizes() == (3000000, 500000)


@pytest.mark.parametrize("tty", [False, True])
def test_a_vanished_peer_takes_its_processes_along(
    channel: SerialChannel, tmp_path: Path, tty: bool
) -> None:
    pids = tmp_path / "pids"
    # The first is in a process group of its own, the second defies the hang-up.
    script = f"""set -m; sleep 1000 & echo $! >> {pids}
    sh -c 'trap "" HUP; echo $$ >> {pids}; while :; do sleep 1; done' & echo $$ >> {pids}; wait"""
    with Talk(channel, Exec(argv=("sh", "-c", script), tty=tty)):
        eventually(lambda: pids.exists() and len(pids.read_text().split()) == 3)

    numbers = [int(word) for word in pids.read_text().split()]
    eventually(lambda: not any(psutil.pid_exists(number) for number in numbers))


def test_signals_reach_the_whole_process_group(channel: SerialChannel) -> None:
    script = "trap 'echo got; exit 7' INT; echo ready; while :; do sleep 0.05; done"
    with Talk(channel, Exec(argv=("sh", "-c", script))) as talk:
        talk.until(b"ready\n")
        talk.session.send_signal(signal.SIGINT)
        talk.to_the_end()

    assert talk.stdout == b"ready\ngot\n"


def test_a_terminal_is_one_with_the_right_size_and_can_be_resized(channel: SerialChannel) -> None:
    script = "trap 'stty size; exit' WINCH; stty size; tty >/dev/null && echo a tty; "
    script += "while :; do sleep 0.05; done"
    request = Exec(argv=("bash", "-c", script), tty=True, rows=11, columns=22)
    with Talk(channel, request) as talk:
        talk.until(b"11 22\r\na tty\r\n")
        talk.session.send_size(33, 44)
        talk.to_the_end()

    assert talk.stdout == b"11 22\r\na tty\r\n33 44\r\n"


def test_keys_that_end_programs_work_on_a_terminal(channel: SerialChannel) -> None:
    with Talk(channel, Exec(argv=("cat",), tty=True)) as talk:
        talk.session.send_stdin(b"ready\n")
        talk.until(b"ready\r\nready\r\n")
        talk.session.send_stdin(b"\x03")
        talk.to_the_end()

    assert talk.stdout == b"ready\r\nready\r\n^C"


def test_the_end_of_input_ends_a_program_on_a_terminal(calls: GuestCalls) -> None:
    ran = run(calls, Exec(argv=("cat",), tty=True), stdin=b"line\n")

    assert ran.exited.code == 0
    assert ran.stdout.replace(b"\r", b"").startswith(b"line\nline\n")


def test_many_streams_at_once_do_not_mix(calls: GuestCalls) -> None:
    def one(number: int) -> bool:
        data = random.Random(number).randbytes(300_000 + number)
        ran = shell(calls, f"cat; echo {number} >&2; exit {number}", stdin=data)
        return (ran.stdout, ran.stderr, ran.exited.code) == (data, f"{number}\n".encode(), number)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(one, range(60)))


def test_streams_are_waited_for_when_all_are_in_use(run_dir: Path) -> None:
    channel = SerialChannel(run_dir)
    held = [channel.connect() for _ in range(14)]
    with pytest.raises(TransientError) as caught:
        GuestCalls(channel, patience=0.1).ask(Exec(argv=("true",)), Exited)

    assert caught.value.code is ErrorCode.AGENT_BUSY
    threading.Timer(0.2, held[0].close).start()
    assert GuestCalls(channel).ask(Exec(argv=("true",)), Exited).code == 0
    for stream in held:
        stream.close()


def test_without_a_command_it_is_the_login_shell(calls: GuestCalls) -> None:
    ran = run(calls, Exec(), stdin=b"echo $0; exit 3\n")

    assert ran.exited.code == 3
    assert ran.stdout.startswith(b"-")
