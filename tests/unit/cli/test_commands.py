"""What each command asks of the daemon, prints, and exits with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.cli.conftest import Banger
from tests.unit.client.fake_daemon import FakeDaemon, make_vm

from banger.api.errors import CallerError, ErrorCode, TransientError
from banger.api.models import Check, CheckStatus, DoctorReport, Image, Kernel, VMState, VMStats

BUSY = TransientError(ErrorCode.VM_BUSY, "another operation is under way", hint="try again")


def sent(daemon: FakeDaemon, method: str) -> list[tuple[str, Any]]:
    return [(path, body) for used, path, body in daemon.requests if used == method]


def test_a_list_is_a_table(banger: Banger) -> None:
    ended = banger("vm", "list")
    head, dev, web = ended.out.splitlines()
    assert ended.status == 0
    assert " ".join(head.split()) == "ID NAME STATE IMAGE ADDRESS SSH VCPU MEM ON DISK AGE"
    assert " ".join(dev.split()) == (
        "aaaa00000000 dev running debian 10.213.0.5 127.0.0.1:40001 2 1G - 1m"
    )
    assert web.index("web") == head.index("NAME")


def test_ps_is_the_list(banger: Banger) -> None:
    assert banger("ps", "-q").out == banger("vm", "ls", "-q").out == "aaaa00000000\nbbbb00000000\n"


def test_no_vms_are_no_lines_to_a_script(banger: Banger, daemon: FakeDaemon) -> None:
    daemon.vms.clear()
    assert banger("vm", "list", "-q").out == ""
    assert json.loads(banger("vm", "list", "--json").out) == []


def test_json_names_every_field(banger: Banger) -> None:
    (dev, _) = json.loads(banger("vm", "list", "--json").out)
    assert (dev["name"], dev["spec"]["nat"], dev["reason"]) == ("dev", False, None)
    assert json.loads(banger("vm", "show", "dev", "--json").out) == dev


def test_show_tells_why_a_vm_is_not_running(banger: Banger, daemon: FakeDaemon) -> None:
    vm = make_vm("cccc00000000", "off", VMState.STOPPED)
    daemon.add(msgspec.structs.replace(vm, reason="guest powered off"))
    assert "stopped (guest powered off)" in banger("vm", "show", "off").out


def test_several_vms_are_asked_before_any_is_waited_for(banger: Banger, daemon: FakeDaemon) -> None:
    ended = banger("vm", "stop", "web", "dev")
    assert ended.status == 0
    assert daemon.asked("POST") == ["/v1/vms/bbbb00000000/stop", "/v1/vms/aaaa00000000/stop"]
    assert ended.err.splitlines()[1::2] == ["web stopped in 4.2 s", "dev stopped in 4.2 s"]


def test_a_vm_named_twice_is_changed_once(banger: Banger, daemon: FakeDaemon) -> None:
    assert banger("vm", "start", "dev", "aaaa", "web", "dev").status == 0
    assert daemon.asked("POST") == ["/v1/vms/aaaa00000000/start", "/v1/vms/bbbb00000000/start"]


def test_one_failure_does_not_keep_the_others_and_is_not_forgotten(
    banger: Banger, daemon: FakeDaemon
) -> None:
    def refuse(_: object) -> object:
        raise BUSY

    daemon.replies["POST", "/v1/vms/aaaa00000000/stop"] = refuse
    ended = banger("vm", "stop", "nope", "dev", "web")
    assert ended.status == 1
    assert "banger: there is no VM 'nope'\nhint: banger vm list\n" in ended.err
    assert "banger: dev: another operation is under way\nhint: try again\n" in ended.err
    assert "web stopped" in ended.err


def test_an_operation_that_fails_is_reported_with_its_id(
    banger: Banger, daemon: FakeDaemon
) -> None:
    vm = daemon.find("dev")
    daemon.replies["POST", "/v1/vms/aaaa00000000/start"] = lambda _: daemon.fail("start", vm, BUSY)
    ended = banger("vm", "start", "dev", "--json")
    error = json.loads(ended.out)["error"]
    assert ended.status == 1
    assert (error["code"], error["operation"]) == ("vm_busy", "op-0")


@pytest.mark.parametrize("command", ["delete", "rm"])
def test_deleting_leaves_the_name_in_json(banger: Banger, daemon: FakeDaemon, command: str) -> None:
    ended = banger("vm", command, "dev", "--json", "-q")
    assert json.loads(ended.out) == {"id": "aaaa00000000", "name": "dev", "deleted": True}
    assert [vm.name for vm in daemon.vms.values()] == ["web"]
    assert ended.err == ""


def test_kill_sends_the_signal(banger: Banger, daemon: FakeDaemon) -> None:
    assert banger("vm", "kill", "dev", "--signal", "term").status == 0
    assert banger("vm", "kill", "dev").status == 0
    assert [body for _, body in sent(daemon, "POST")] == [{"signal": "TERM"}, {}]
    assert banger("vm", "kill", "dev", "--signal", "STOP").status == 2


def test_create_prints_the_name_alone(banger: Banger, daemon: FakeDaemon) -> None:
    ended = banger(
        *[
            "vm",
            "create",
            "--name",
            "new",
            "--vcpu",
            "3",
            "--memory",
            "2G",
            "--disk-size",
            "512M",
            "--nat",
        ],
        *["-p", "8080:80", "-p", "0.0.0.0:53:5353/udp", "--no-start"],
    )
    assert (ended.status, ended.out) == (0, "new\n")
    assert ended.err.splitlines() == ["new: disks (1.5 s)", "new created in 4.2 s"]
    assert sent(daemon, "POST") == [
        (
            "/v1/vms",
            {
                "name": "new",
                "vcpus": 3,
                "memory": 2 * 2**30,
                "disk_size": 512 * 2**20,
                "nat": True,
                "ports": [
                    {"host_port": 8080, "guest_port": 80, "host_ip": "127.0.0.1"},
                    {
                        "host_port": 53,
                        "guest_port": 5353,
                        "host_ip": "0.0.0.0",
                        "protocol": "udp",
                    },
                ],
                "start": False,
            },
        )
    ]


def test_quiet_says_nothing(banger: Banger) -> None:
    assert banger("vm", "create", "-q", "--name", "n1") == (0, "n1\n", "")
    assert banger("vm", "stop", "-q", "n1") == (0, "", "")


def test_json_of_a_new_vm_is_the_vm(banger: Banger) -> None:
    assert json.loads(banger("vm", "create", "--json").out)["name"] == "calm-otter"
    assert json.loads(banger("vm", "run", "-d", "--json").out)["name"] == "calm-otter"


def test_set_sends_only_what_was_given(banger: Banger, daemon: FakeDaemon) -> None:
    assert banger("vm", "set", "dev", "--no-nat", "--disk-size", "9G").status == 0
    assert banger("vm", "set", "dev", "-p", "1:2", "--name", "x").status == 0
    assert banger("vm", "set", "dev", "--no-ports").status == 0
    assert [body for _, body in sent(daemon, "PATCH")] == [
        {"nat": False, "disk_size": 9 * 2**30},
        {"ports": [{"host_port": 1, "guest_port": 2, "host_ip": "127.0.0.1"}], "name": "x"},
        {"ports": []},
    ]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("vm create --memory 0", "invalid_size"),
        ("vm create --disk-size 9X", "invalid_size"),
        ("vm create --name Bad_Name", "invalid_name"),
        ("vm create --vcpu 0", "invalid_request"),
        ("vm create -p 80", "invalid_request"),
        ("vm create -p 0:80", "invalid_request"),
        ("vm create -p 1:65536", "invalid_request"),
        ("vm create -p 1.2.3:1:1", "invalid_request"),
        ("vm create -p 1:1/sctp", "invalid_request"),
        ("vm create -p [::1]:1:1", "invalid_request"),
        ("vm set dev", "invalid_request"),
        ("vm set dev -p 1:1 --no-ports", "invalid_request"),
        ("vm run --rm -d", "invalid_request"),
        ("vm run -d -- true", "invalid_request"),
        ("vm run uname", "invalid_request"),
        ("vm run --", "invalid_request"),
        ("vm run -e 1X=2 -- true", "invalid_request"),
        ("vm run -e LD_PRELOAD=x -- true", "invalid_request"),
        ("vm run -- true", "invalid_request"),
        ("vm show", "invalid_request"),
        ("vm fly", "invalid_request"),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(
    banger: Banger, daemon: FakeDaemon, words: str, code: str
) -> None:
    before, dashes, command = words.partition(" --")
    spaced = dashes and not command[:1].strip()
    line = [*before.split(), "--json", *f"{dashes}{command}".split()]
    ended = banger(*(line if spaced else [*words.split(), "--json"]))
    assert ended.status in (1, 2, 125)
    assert json.loads(ended.out)["error"]["code"] == code
    assert ended.err.startswith("banger: ")
    assert "\nhint: " in ended.err
    assert daemon.requests == []


def test_usage_errors_exit_with_2_and_point_to_help(banger: Banger) -> None:
    assert banger("vm", "stop") == (
        2,
        "",
        "banger: Missing argument 'VM...'\nhint: see: banger vm stop --help\n",
    )


def test_no_daemon_is_one_line_and_a_hint(banger: Banger, tmp_path: Path) -> None:
    ended = banger("--host", str(tmp_path / "nobody"), "vm", "list")
    assert (ended.status, ended.out) == (1, "")
    assert "no daemon answers" in ended.err


def test_a_bug_is_one_line_too(banger: Banger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger.cli.vm.list.vm_table", lambda _: 1 / 0)
    ended = banger("vm", "list")
    assert ended.status == 1
    assert ended.err.startswith("banger: ZeroDivisionError: division by zero\nhint: BANGER_DEBUG=1")
    monkeypatch.setenv("BANGER_DEBUG", "1")
    assert "Traceback" in banger("vm", "list").err


def test_prune_deletes_what_is_stopped_and_nothing_else(banger: Banger, daemon: FakeDaemon) -> None:
    daemon.add(make_vm("cccc00000000", "off", VMState.STOPPED))
    assert banger("vm", "prune", "-f").status == 0
    assert daemon.asked("DELETE") == ["/v1/vms/cccc00000000"]
    assert "nothing to delete" in banger("vm", "prune", "-f").err


def test_prune_does_not_delete_when_nobody_can_be_asked(banger: Banger, daemon: FakeDaemon) -> None:
    daemon.add(make_vm("cccc00000000", "off", VMState.STOPPED))
    ended = banger("vm", "prune")
    assert ended.status == 1
    assert "off" in ended.err
    assert "banger vm prune -f" in ended.err
    assert daemon.asked("DELETE") == []


def test_logs_are_copied(banger: Banger, daemon: FakeDaemon) -> None:
    daemon.streams["/v1/vms/dev/logs"] = [b"one\n", b"two"]
    assert banger("vm", "logs", "-f", "-n", "5", "dev").out == "one\ntwo"
    assert daemon.asked("GET")[-1] == "/v1/vms/dev/logs?follow=true&tail=5"


def test_stats_without_names_are_of_all_that_run(banger: Banger, daemon: FakeDaemon) -> None:
    daemon.add(make_vm("cccc00000000", "off", VMState.STOPPED))
    for vm in daemon.vms.values():
        usage = VMStats(id=vm.id, name=vm.name, state=vm.state, cpu_percent=12.4, uptime_seconds=61)
        daemon.replies["GET", f"/v1/vms/{vm.id}/stats"] = lambda _, usage=usage: usage  # type: ignore[misc]

    lines = banger("vm", "stats").out.splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "dev", "web"]
    assert "12%" in lines[1]
    assert [row["name"] for row in json.loads(banger("vm", "stats", "--json").out)] == [
        "dev",
        "web",
    ]


def test_images_and_kernels_are_shown(banger: Banger, daemon: FakeDaemon) -> None:
    image = Image(
        id="i1",
        name="debian",
        kernel="k1",
        created_at=0,
        root_size=2**33,
        work_size=2**33,
        allocated_bytes=2**29,
        packages=("git", "curl"),
    )
    kernel = Kernel(id="k1", name="debian", release="6.1", created_at=0, allocated_bytes=1)
    daemon.replies["GET", "/v1/images"] = lambda _: [image]
    daemon.replies["GET", "/v1/images/debian"] = lambda _: image
    daemon.replies["GET", "/v1/kernels"] = lambda _: [kernel]
    daemon.replies["GET", "/v1/kernels/debian"] = lambda _: kernel
    assert "512M" in banger("image", "list").out
    assert "git, curl" in banger("image", "show", "debian").out
    assert json.loads(banger("image", "list", "--json").out)[0]["packages"] == ["git", "curl"]
    assert "6.1" in banger("kernel", "list").out
    assert json.loads(banger("kernel", "show", "debian", "--json").out)["release"] == "6.1"


def test_an_image_is_built_from_a_recipe(
    banger: Banger, daemon: FakeDaemon, tmp_path: Path
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("x = 1\n")
    seen: list[Any] = []

    def refuse(body: object) -> object:
        seen.append(body)
        raise CallerError(ErrorCode.IMAGE_BUILD_FAILED, "no")

    daemon.replies["POST", "/v1/images/build"] = refuse
    assert banger("image", "build", "tools", "--recipe", str(recipe), "--force").status == 1
    assert seen == [{"name": "tools", "recipe": "x = 1\n", "force": True}]
    assert banger("image", "build", "--recipe", str(tmp_path / "none")).status == 2


def test_doctor_fails_only_for_failures(banger: Banger, daemon: FakeDaemon) -> None:
    checks = [
        Check(name="kvm", status=CheckStatus.WARN, summary="none", fix="buy", details=("d",)),
        Check(name="ssh", status=CheckStatus.PASS, summary="there"),
    ]
    daemon.replies["GET", "/v1/doctor"] = lambda _: DoctorReport(checks=tuple(checks))
    ended = banger("doctor")
    assert ended.status == 0
    assert ended.out == "warn  kvm: none\n      d\n      fix: buy\npass  ssh: there\n"
    checks.append(Check(name="qemu", status=CheckStatus.FAIL, summary="missing"))
    assert banger("doctor", "--json").status == 1


def test_daemon_commands(banger: Banger, daemon: FakeDaemon) -> None:
    assert banger("daemon", "socket").out == f"{daemon.path}\n"
    assert "2, 0 running" in banger("daemon", "status").out
    assert json.loads(banger("daemon", "status", "--json").out)["vms"] == 2
    assert banger("daemon", "start").status == 0
    assert "banger 0.1.0" in banger("version").out
    assert json.loads(banger("version", "--json").out)["daemon"]["pid"] == 1


def test_versions_are_told_without_a_daemon(banger: Banger, tmp_path: Path) -> None:
    ended = banger("--host", str(tmp_path / "nobody"), "version", "--json")
    assert (ended.status, json.loads(ended.out)["daemon"]) == (0, None)
