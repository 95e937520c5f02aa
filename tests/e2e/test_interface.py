"""The surface itself: help, completion, version, the API's description, the daemon's footprint."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from tests.e2e.harness import Banger, eventually

from banger import __version__

COMMANDS = [
    *[f"vm {verb}" for verb in (
        "run", "create", "list", "show", "start", "stop", "restart", "kill", "delete", "prune",
        "set", "ssh", "logs", "stats",
    )],
    "ps", "image list", "image show", "image build", "image delete", "kernel list", "kernel show",
    "daemon status", "daemon stop", "daemon socket", "doctor", "version", "completion",
]  # fmt: skip
ALIASES = {"ps": "vm list"}
READING = [
    "vm list", "vm stats", "ps", "image list", "kernel list", "daemon status", "doctor", "version",
]  # fmt: skip
PSS_LIMIT = 60 << 20


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(shared: Banger, command: str) -> None:
    text = shared.ok(*command.split(), "--help")

    assert "Example" in text
    assert f"banger {ALIASES.get(command, command)}" in text.split("Example")[1]


@pytest.mark.parametrize("command", READING)
def test_what_reads_speaks_json(shared: Banger, command: str) -> None:
    assert shared.json(*command.split()) is not None


def test_tables_are_for_people(shared: Banger) -> None:
    table = shared.ok("vm", "list").splitlines()

    assert "NAME" in table[0]
    assert table[1].split()[0] == "box" or "box" in table[1]
    assert "\x1b" not in "".join(table)


def test_the_version_is_one(shared: Banger) -> None:
    assert __version__ in shared.ok("version")
    assert shared.json("daemon", "status")["version"] == __version__


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(shared: Banger, shell: str) -> None:
    assert "banger" in shared.ok("completion", shell)


def test_the_socket_answers_and_describes_itself(shared: Banger) -> None:
    assert shared.ok("daemon", "socket") == str(shared.socket)
    description = shared.api("GET", "/openapi.json").value

    assert description["openapi"].startswith("3.")
    assert {"/v1/vms", "/v1/vms/{vm}", "/v1/operations/{operation}/events"} <= {
        path.replace("{id}", "{operation}") if "operations" in path else path
        for path in description["paths"]
    }
    assert [vm["name"] for vm in shared.api("GET", "/v1/vms").value] == ["box"]


def test_an_api_error_has_the_shape_of_every_error(shared: Banger) -> None:
    reply = shared.api("GET", "/v1/vms/nosuch")

    assert reply.status == 404
    assert reply.value["error"]["code"] == "unknown_vm"


def test_the_daemon_at_rest_uses_no_cpu_and_at_most_60_mib(shared: Banger) -> None:
    daemon = psutil.Process(shared.daemon_pid())

    def rests() -> bool:
        before = daemon.cpu_times()
        time.sleep(3)
        return bool(daemon.cpu_times()[:2] == before[:2])

    eventually(rests, "three seconds without a tick of CPU")
    assert daemon.memory_full_info().pss <= PSS_LIMIT


def test_doctor_explains_this_host(shared: Banger) -> None:
    report = shared.ok("doctor")

    assert "kvm" in report.lower()
    assert {"pass", "warn"} >= {check["status"] for check in shared.json("doctor")["checks"]}


def test_the_daemon_holds_nothing_open_but_its_own(shared: Banger) -> None:
    daemon = psutil.Process(shared.daemon_pid())
    before = daemon.num_fds()
    for _ in range(20):
        shared.json("vm", "list")
        shared.json("vm", "stats")

    eventually(lambda: daemon.num_fds() <= before, "no descriptor more than before")
    assert Path(f"/proc/{daemon.pid}/cwd").readlink() == Path("/")
