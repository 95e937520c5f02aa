"""`vm run`: the guest's streams, status, signals and terminal are banger's own.

Whole processes, with the real agent on this machine in the place of the guest's.
"""

from __future__ import annotations

import signal
from pathlib import Path

import msgspec
import pytest
from tests.unit.channel.conftest import agent_file, run_dir
from tests.unit.cli.conftest import Banger
from tests.unit.cli.processes import BANGER, PATIENCE, Terminal, run, start
from tests.unit.client.fake_daemon import FakeDaemon

from banger.api.errors import ErrorCode, PermanentError
from banger.api.models import AgentEndpoint

__all__ = ["agent_file", "run_dir"]

RM = ("vm", "run", "--rm", "--name", "tmp", "--")


@pytest.fixture(autouse=True)
def guest(daemon: FakeDaemon, run_dir: Path) -> None:
    answer = msgspec.json.encode(AgentEndpoint(directory=str(run_dir)))
    daemon.replies["GET", "/v1/vms/000000000002/agent"] = lambda _: answer


def test_streams_come_apart_and_the_status_is_the_guests() -> None:
    script = "cat; echo err >&2; exit 42"
    data = bytes(range(256)) * 4096
    assert run(*RM, "sh", "-c", script, stdin=data) == (42, data, b"err\n")


@pytest.mark.parametrize(
    ("script", "status"),
    [("kill -9 $$", 137), ("kill -TERM $$", 143), ("exit 255", 255), ("exit 0", 0)],
)
def test_death_by_a_signal_is_told_as_a_shell_tells_it(script: str, status: int) -> None:
    assert run(*RM, "sh", "-c", script) == (status, b"", b"")


def test_a_program_that_is_not_there_is_127() -> None:
    status, out, err = run(*RM, "no-such-program")
    assert (status, out) == (127, b"")
    assert b"no-such-program: not found" in err


def test_words_arrive_as_they_were_typed() -> None:
    words = ["a b", "it's", '"quoted"', "$HOME", "*", "back\\slash", "semi;colon", "", "\n"]
    printed = run(*RM, "printf", "%s\\0", *words)[1]
    assert printed.decode().split("\0")[:-1] == words


def test_variables_are_given_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret one")
    words = ("-e", "TOKEN", "-e", "KEY=s3cret=two\n", "-e", "UNSET_ONE", "--")
    script = 'printf "%s|%s|%s" "$TOKEN" "$KEY" "${UNSET_ONE-none}"'
    ended = run("vm", "run", "--rm", *words, "sh", "-c", script)
    assert ended == (0, b"s3cret one|s3cret=two\n|none", b"")


def test_without_a_command_the_login_shell_reads_the_input() -> None:
    script = b'echo "$0"; exit 7\n'
    status, out, _ = run("vm", "run", "--rm", stdin=script)
    assert (status, out[:1]) == (7, b"-")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_reaches_the_guest_and_the_vm_is_still_removed(
    daemon: FakeDaemon, number: signal.Signals
) -> None:
    with start(*RM, "sh", "-c", "echo up; exec sleep 60") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number

    assert daemon.asked("DELETE") == ["/v1/vms/000000000002"]


def test_a_terminal_is_the_guests_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "vt220")
    terminal = Terminal(BANGER, *RM, "sh", "-c", "read x; stty size; echo $TERM; exit 5")
    terminal.resize(44, 111)
    terminal.type(b"\n")
    assert terminal.end() == 5
    assert b"44 111\r\nvt220\r\n" in terminal.output


def test_a_run_asks_for_a_vm_that_does_not_outlive_it(daemon: FakeDaemon) -> None:
    with start(*RM, "true") as process:
        process.communicate(timeout=PATIENCE)

    body = next(body for method, path, body in daemon.requests if method == "POST")
    assert body["holder_pid"] == process.pid
    assert "000000000002" not in daemon.vms


def test_a_vm_without_rm_stays(daemon: FakeDaemon) -> None:
    assert run("vm", "run", "--", "true") == (0, b"", b"")
    assert daemon.asked("DELETE") == []


def test_the_vm_is_removed_when_there_is_no_way_into_it(daemon: FakeDaemon) -> None:
    answer = msgspec.json.encode(AgentEndpoint(directory="/nonexistent"))
    daemon.replies["GET", "/v1/vms/000000000002/agent"] = lambda _: answer

    assert run(*RM, "true")[0] == 125
    assert daemon.asked("DELETE") == ["/v1/vms/000000000002"]


def test_a_vm_that_cannot_be_removed_is_reported(daemon: FakeDaemon) -> None:
    def refuse(_: object) -> object:
        raise PermanentError(ErrorCode.INTERNAL, "no")

    daemon.replies["DELETE", "/v1/vms/000000000002"] = refuse
    assert run(*RM, "true") == (125, b"", b"banger: 000000000002: no\n")
    daemon.vms.pop("000000000002")
    assert run(*RM, "sh", "-c", "exit 4")[0] == 4


def test_stages_are_drawn_and_replaced_by_one_line() -> None:
    terminal = Terminal(BANGER, "vm", "run", "--name", "tmp", "--", "true")
    assert terminal.end() == 0
    assert b"disks" in terminal.output
    assert terminal.output.endswith(b"\x1b[J" + b"tmp ready in 4.2 s\r\n")


def test_a_shell_that_was_left_says_that_its_vm_still_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal(BANGER, "vm", "run", "--name", "tmp")
    terminal.type(b"echo wel''come; exit 3\n")
    terminal.read_until(b"\rwelcome\r\n")
    assert terminal.end() == 3
    assert b"tmp is still running. Back: banger vm ssh tmp; stop: banger vm stop tmp" in (
        terminal.output
    )
    assert b"\x1b[2m" not in terminal.output


def test_d_prints_the_name_and_asks_the_guest_nothing(banger: Banger, daemon: FakeDaemon) -> None:
    assert banger("vm", "run", "-d", "--name", "bg").out == "bg\n"
    assert "/v1/vms/000000000002/agent" not in daemon.asked("GET")
