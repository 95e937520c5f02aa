"""`vm ssh`: the guest's streams, status, signals and terminal are banger's own.

Whole processes with a fake ssh, which runs the guest's command on this machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.cli.conftest import Calls
from tests.unit.cli.processes import BANGER, PATIENCE, Terminal, run, start, wait_for
from tests.unit.client.fake_daemon import FakeDaemon, make_vm

from banger.api.models import VMState
from banger.cli.session import remote_command

SSH = ("vm", "ssh", "dev", "--")


def test_streams_come_apart_and_the_status_is_the_guests(ssh: Calls) -> None:
    script = "echo out; echo err >&2; exit 42"
    assert run(*SSH, "sh", "-c", script) == (42, b"out\n", b"err\n")


def test_input_and_output_are_kept_byte_for_byte(ssh: Calls) -> None:
    data = bytes(range(256)) * 4096
    assert run(*SSH, "cat", stdin=data) == (0, data, b"")


@pytest.mark.parametrize(
    ("script", "status"),
    [("kill -9 $$", 137), ("kill -TERM $$", 143), ("exit 255", 255), ("exit 0", 0)],
)
def test_death_by_a_signal_is_told_as_a_shell_tells_it(
    ssh: Calls, script: str, status: int
) -> None:
    assert run("vm", "ssh", "dev", "--", "sh", "-c", script) == (status, b"", b"")


def test_a_program_that_is_not_there_is_127(ssh: Calls) -> None:
    status, out, err = run("vm", "ssh", "dev", "--", "no-such-program")
    assert (status, out) == (127, b"")
    assert b"not found" in err


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_words_arrive_as_they_were_typed(words: list[str]) -> None:
    command = remote_command(["printf", "%s\\0", "x", *words])
    out = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, check=True).stdout
    assert out.split(b"\0")[1:-1] == [word.encode() for word in words]


def test_variables_are_sent_but_never_in_a_command_line(
    ssh: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "s3cret one")
    words = ("-e", "TOKEN", "-e", "KEY=s3cret=two\n", "-e", "UNSET_ONE", "--")
    script = 'printf "%s|%s|%s" "$TOKEN" "$KEY" "${UNSET_ONE-none}"'
    status, out, _ = run("vm", "ssh", "dev", *words, "sh", "-c", script)
    (call,) = ssh.read()
    assert (status, out) == (0, b"s3cret one|s3cret=two\n|none")
    assert {"TOKEN", "KEY", "BANGER_EXEC_ID"} == call["env"].keys()
    assert "s3cret" not in " ".join(call["argv"])


def test_ssh_trusts_one_key_and_asks_nobody(ssh: Calls, tmp_path: Path) -> None:
    run("vm", "ssh", "dev", "--", "true")
    argv = ssh.read()[0]["argv"]
    options = {argv[n + 1] for n, word in enumerate(argv) if word == "-o"}
    assert argv[:2] == ["-F", "/dev/null"]
    assert options >= {
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "HostKeyAlias=aaaa00000000",
        f'UserKnownHostsFile="{tmp_path}/known"',
        f'IdentityFile="{tmp_path}/a key%%"',
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "ForwardAgent=no",
        "ForwardX11=no",
        "Port=40001",
        "User=root",
    }


def test_ssh_options_after_the_dashes_are_sshs_own(ssh: Calls) -> None:
    run("vm", "ssh", "dev", "--", "-L", "1:localhost:2", "-N")
    argv = ssh.read()[0]["argv"]
    assert argv[-4:] == ["127.0.0.1", "-L", "1:localhost:2", "-N"]


def test_without_a_command_the_login_shell_reads_the_input(ssh: Calls) -> None:
    status, out, _ = run("vm", "ssh", "dev", stdin=b"echo hi; exit 7\n")
    assert (status, out) == (7, b"hi\n")
    assert "-T" in ssh.read()[0]["argv"]


def test_sshs_own_failure_is_125_and_says_why(ssh: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SSH", "refuse")
    status, out, err = run("vm", "ssh", "dev", "--", "true")
    assert (status, out) == (125, b"")
    assert err.startswith(b"banger: ssh to dev ended: ssh: connect to host 127.0.0.1 port 1: Conn")


def test_no_such_vm_is_125(ssh: Calls) -> None:
    status, out, err = run("vm", "ssh", "nope", "--", "true")
    assert (status, out) == (125, b"")
    assert err.startswith(b"banger: ")
    assert ssh.read() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_reaches_the_guest(ssh: Calls, number: signal.Signals) -> None:
    with start(*SSH, "sh", "-c", "echo up; sleep 60") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number

    first, second = ssh.read()
    assert "-n" in second["argv"]
    assert first["env"]["BANGER_EXEC_ID"] in second["argv"][-1]


def test_a_guest_may_answer_a_signal_as_it_likes(ssh: Calls) -> None:
    script = 'trap "echo bye; exit 9" TERM; echo up; while :; do sleep 0.05; done'
    with start("vm", "ssh", "dev", "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        out, _ = process.communicate(timeout=PATIENCE)

    assert (process.returncode, out) == (9, b"bye\n")


def test_a_second_signal_gives_up_on_a_guest_that_ignores_the_first(ssh: Calls) -> None:
    script = 'trap "" TERM; echo up $$; for n in $(seq 300); do sleep 0.05; done'
    with start("vm", "ssh", "dev", "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline().split()[1])
        try:
            process.terminate()
            wait_for(lambda: len(ssh.read()) == 2)
            process.terminate()
            assert process.wait(PATIENCE) == 143
        finally:
            os.kill(pid, signal.SIGKILL)


def test_signals_that_were_ignored_stay_ignored(ssh: Calls) -> None:
    command = f"trap '' HUP; exec {BANGER} vm ssh dev -- sh -c 'echo up; read line; exit 3'"
    with subprocess.Popen(
        ["sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.communicate(b"go\n", PATIENCE)

    assert process.returncode == 3
    assert len(ssh.read()) == 1


@pytest.mark.parametrize("words", [("vm", "create"), ("vm", "run", "--rm"), ("vm", "start", "dev")])
def test_ctrl_c_takes_back_what_is_being_made(
    ssh: Calls, daemon: FakeDaemon, words: tuple[str, ...]
) -> None:
    daemon.holding |= {"create", "start"}
    with start(*words) as process:
        wait_for(lambda: daemon.operations)
        wait_for(lambda: process.poll() is not None or reading_events(process.pid))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, out) == (130, b"")
    assert b"was cancelled, nothing is left of it" in err
    assert daemon.asked("DELETE") == ["/v1/operations/op-0"]


def test_ctrl_c_does_not_undo_what_is_being_ended(daemon: FakeDaemon) -> None:
    daemon.holding.add("stop")
    with start("vm", "stop", "dev") as process:
        wait_for(lambda: daemon.operations)
        wait_for(lambda: reading_events(process.pid))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert b"stop goes on without you" in err
    assert daemon.asked("DELETE") == []


def reading_events(pid: int) -> bool:
    """Whether the process waits for the daemon, so that Ctrl-C meets it where it may."""
    wchan = Path(f"/proc/{pid}/wchan").read_text()
    return "unix_stream" in wchan or "skb" in wchan or "poll" in wchan


def test_on_a_terminal_the_guest_gets_one_of_the_right_size(ssh: Calls) -> None:
    terminal = Terminal(
        BANGER,
        "vm",
        "ssh",
        "dev",
        "--",
        "sh",
        "-c",
        "read x; tty; stty size; exit 5",
        rows=33,
        columns=99,
    )
    terminal.resize(44, 111)
    terminal.type(b"\n")
    assert terminal.end() == 5
    assert b"44 111" in terminal.output
    assert "-tt" in ssh.read()[0]["argv"]


def test_a_command_with_a_redirected_stream_gets_no_terminal(ssh: Calls, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert Terminal("sh", "-c", f"{BANGER} vm ssh dev -- echo hi > {out}").end() == 0
    assert out.read_bytes() == b"hi\n"
    assert "-T" in ssh.read()[0]["argv"]


def test_prune_shows_what_it_would_delete_and_asks(ssh: Calls, daemon: FakeDaemon) -> None:
    daemon.add(make_vm("cccc00000000", "off", VMState.STOPPED))
    for answer, deleted in ((b"n\n", []), (b"y\n", ["/v1/vms/cccc00000000"])):
        terminal = Terminal(BANGER, "vm", "prune")
        terminal.read_until(b"[y/N]")
        terminal.type(answer)
        terminal.end()
        assert b"off" in terminal.output
        assert daemon.asked("DELETE") == deleted
