"""The agent of a real guest, through the commands that need no ssh."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tests.e2e.harness import Banger, eventually


def test_streams_and_status_are_those_of_the_command(shared: Banger) -> None:
    data = os.urandom(3_000_000)
    script = "sha256sum; echo err >&2; exit 42"
    outcome = shared.run("vm", "exec", "box", "--", "sh", "-c", script, stdin=data)

    assert outcome.status == 42
    assert outcome.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert outcome.stderr == b"err\n"


def test_many_commands_in_a_row_find_a_stream_in_order(shared: Banger) -> None:
    for number in range(30):
        assert shared.ok("vm", "exec", "box", "--", "echo", str(number)) == str(number)


def test_a_command_ends_with_the_banger_that_asked_for_it(shared: Banger) -> None:
    def runs() -> bool:
        return shared.run("vm", "exec", "box", "--", "pgrep", "-fx", "sleep 123456").status == 0

    asker = shared.start("vm", "exec", "box", "--", "sleep", "123456")
    eventually(runs, "it runs")
    asker.kill()
    asker.wait()

    eventually(lambda: not runs(), "it is gone")


def test_files_and_trees_go_there_and_back(shared: Banger, tmp_path: Path) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "below" / "run").write_bytes(os.urandom(500_000))
    (tmp_path / "tree" / "below" / "run").chmod(0o751)
    shared.ok("vm", "cp", str(tmp_path / "tree"), "box:copied")
    shared.ok("vm", "cp", "box:copied", str(tmp_path / "back"))
    back = tmp_path / "back" / "below" / "run"

    assert back.read_bytes() == (tmp_path / "tree" / "below" / "run").read_bytes()
    assert back.stat().st_mode & 0o777 == 0o751
    assert shared.run("vm", "cp", "box:copied/below/run", "-").stdout == back.read_bytes()


def test_ports_are_told_with_where_they_are_reached(shared: Banger) -> None:
    shared.sh("box", "true")
    ssh = [port for port in shared.json("vm", "ports", "box") if port["port"] == 22]

    assert {port["process"] for port in ssh} == {"sshd"}
    assert {port["endpoint"] for port in ssh} == {f"127.0.0.1:{shared.vm('box')['ssh_port']}"}


def test_the_agent_answers_a_new_daemon_and_a_guest_that_rebooted(banger: Banger) -> None:
    banger.ok("vm", "create", "--name", "dev")
    before = banger.ok("vm", "exec", "dev", "--", "cat", "/proc/sys/kernel/random/boot_id")
    banger.ok("daemon", "stop")
    banger.ok("vm", "wait", "dev", "--for", "boot")
    assert banger.ok("vm", "exec", "dev", "--", "cat", "/proc/sys/kernel/random/boot_id") == before

    banger.run("vm", "exec", "dev", "--", "reboot")
    eventually(
        lambda: (
            banger.run("vm", "exec", "dev", "--", "cat", "/proc/sys/kernel/random/boot_id").stdout
            not in (b"", before.encode() + b"\n")
        ),
        "it answers after its reboot",
    )


def test_memory_that_cannot_be_reclaimed_is_a_clear_refusal(shared: Banger) -> None:
    told = shared.run("vm", "reclaim", "box")

    assert told.status == 1
    assert "without an installation a guest has no memory balloon" in told.complaint
    assert "banger system install" in told.complaint
    assert shared.ok("vm", "exec", "box", "--", "echo", "on") == "on"


# One of two processors is taken by a program that lets nothing else of the kernel's on it: drivers
# hear of a connection up to 2.9 s after its data.
HOG = """
sysctl -q kernel.sched_rt_period_us=3000000
sysctl -q kernel.sched_rt_runtime_us=2900000
exec chrt -f 50 taskset -c 0 sh -c 'while :; do :; done'
"""


def test_a_guest_that_hears_of_connections_late_answers_all_the_same(banger: Banger) -> None:
    banger.ok("vm", "create", "--name", "dev", "--vcpu", "2")
    banger.ok("vm", "exec", "dev", "-d", "--", "sh", "-c", HOG)

    for number in range(5):
        assert banger.ok("vm", "exec", "dev", "--", "echo", str(number)) == str(number)
