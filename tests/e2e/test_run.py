"""`banger vm run`: a command in a VM behaves as the command itself would."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator

import pytest
from tests.e2e.conftest import Installer
from tests.e2e.harness import Banger, eventually


def test_a_throw_away_run_is_its_command_and_leaves_nothing(banger: Banger) -> None:
    outcome = banger.run("vm", "run", "--rm", "--", "sh", "-c", "echo out; echo err >&2; exit 42")

    assert outcome.status == 42, outcome
    assert outcome.stdout == b"out\n"
    assert outcome.stderr.endswith(b"err\n")
    assert banger.json("vm", "list") == []
    assert banger.leftovers() == []


def test_a_kept_run_leaves_one_running_vm_of_the_given_name(banger: Banger) -> None:
    assert banger.ok("vm", "run", "--name", "kept", "--", "hostname") == "kept"

    assert banger.vm("kept")["state"] == "running"
    assert banger.sh("kept", "hostname") == "kept"


def test_a_detached_run_returns_while_the_vm_runs_and_prints_its_name(banger: Banger) -> None:
    printed = banger.ok("vm", "run", "--detach", "--name", "detached")

    assert "detached" in printed
    assert banger.vm("detached")["state"] == "running"


def test_a_throw_away_vm_goes_when_its_run_is_killed(banger: Banger) -> None:
    run = banger.start("vm", "run", "--rm", "--name", "orphan", "--", "sleep", "1000")
    eventually(lambda: any(vm["state"] == "running" for vm in banger.json("vm", "list")), "it runs")
    run.kill()
    run.wait()

    eventually(lambda: banger.json("vm", "list") == [], "the VM is deleted")
    eventually(lambda: banger.leftovers() == [], "nothing is left")


def test_a_run_that_is_interrupted_while_it_boots_leaves_nothing(banger: Banger) -> None:
    run = banger.start("vm", "run", "--rm", "--name", "early", "--", "true")
    eventually(banger.vmms, "the VMM is there")
    run.send_signal(signal.SIGINT)

    assert run.wait(60) != 0
    eventually(lambda: banger.leftovers() == [], "nothing is left")


@pytest.fixture(scope="module")
def box(shared: Banger) -> Iterator[Banger]:
    assert shared.vm("box")["state"] == "running"
    yield shared
    assert shared.vm("box")["state"] == "running"


def test_one_hundred_megabytes_of_stdin_arrive_whole(box: Banger) -> None:
    data = os.urandom(1 << 20) * 100

    printed = box.ok("vm", "ssh", "box", "--", "sha256sum", stdin=data)

    assert printed.split()[0] == hashlib.sha256(data).hexdigest()


def test_output_is_byte_exact(box: Banger) -> None:
    every_byte = bytes(range(256)) * 64 + b"\r\n\n\r\0"

    outcome = box.run("vm", "ssh", "box", "--", "tee", "/dev/stderr", stdin=every_byte)

    assert outcome.stdout == every_byte
    assert outcome.stderr == every_byte


@pytest.mark.parametrize("status", [0, 1, 42, 126, 127, 254])
def test_the_status_of_the_command_is_bangers_own(box: Banger, status: int) -> None:
    assert box.run("vm", "ssh", "box", "--", "sh", "-c", f"exit {status}").status == status


def test_a_command_killed_by_a_signal_reports_it_as_a_shell_would(box: Banger) -> None:
    outcome = box.run("vm", "ssh", "box", "--", "sh", "-c", "kill -TERM $$")

    assert outcome.status == 128 + signal.SIGTERM


def test_arguments_keep_their_spaces_quotes_and_dollars(box: Banger) -> None:
    words = ["a b", "it's", '"quoted"', "$HOME", "*", "back\\slash", "semi;colon", ""]

    printed = box.ok("vm", "ssh", "box", "--", "printf", "%s\\n", *words)

    assert printed.splitlines() == words[:-1]


def test_a_directory_of_the_users_survives_the_command_line(box: Banger) -> None:
    assert box.ok("vm", "ssh", "box", "--", "pwd") == "/root"


def test_environment_variables_arrive(install: Installer) -> None:
    banger = install()
    printed = banger.ok(
        "vm", "run", "--rm", "-e", "GREETING=hello there", "-e", "FROM_HOST", "--",
        "sh", "-c", "echo $GREETING, $FROM_HOST",
        env={"FROM_HOST": "host"},
    )  # fmt: skip

    assert printed == "hello there, host"
