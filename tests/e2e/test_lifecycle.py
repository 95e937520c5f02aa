"""The verbs on VMs: one or several, by name, id or prefix."""

from __future__ import annotations

import json

import pytest
from tests.e2e.harness import Banger, eventually, free_port

GIB = 1 << 30


def test_several_vms_are_created_started_and_deleted_together(banger: Banger) -> None:
    for name in ("one", "two", "three"):
        banger.ok("vm", "create", "--no-start", "--name", name)

    assert {vm["state"] for vm in banger.json("vm", "list")} == {"stopped"}
    banger.ok("vm", "start", "one", "two")
    assert [banger.vm(name)["state"] for name in ("one", "two", "three")] == [
        "running",
        "running",
        "stopped",
    ]

    refused = banger.run("vm", "stop", "one", "nosuch", "two")
    assert refused.status != 0
    assert "nosuch" in refused.complaint
    assert [banger.vm(name)["state"] for name in ("one", "two")] == ["stopped", "stopped"]

    banger.ok("vm", "delete", "one", "two", "three")
    assert banger.json("vm", "list") == []


def test_a_vm_is_found_by_name_id_and_unique_prefix(banger: Banger) -> None:
    banger.ok("vm", "create", "--no-start", "--name", "found")
    vm_id = banger.vm("found")["id"]

    assert banger.vm(vm_id)["name"] == "found"
    assert banger.vm(vm_id[:6])["name"] == "found"


def test_a_vm_without_a_name_gets_one(banger: Banger) -> None:
    banger.ok("vm", "create", "--no-start")

    (vm,) = banger.json("vm", "list")
    assert vm["name"]
    assert banger.vm(vm["name"])["id"] == vm["id"]


def test_ps_is_list(shared: Banger) -> None:
    assert shared.ok("ps") == shared.ok("vm", "list")
    assert "box" in shared.ok("ps")


def test_prune_asks_first_and_deletes_what_is_stopped(banger: Banger) -> None:
    banger.ok("vm", "create", "--no-start", "--name", "stopped")
    banger.ok("vm", "create", "--name", "running")

    assert banger.run("vm", "prune", stdin=b"n\n").status != 0 or banger.vm("stopped")
    assert len(banger.json("vm", "list")) == 2
    banger.ok("vm", "prune", "-f")

    assert [vm["name"] for vm in banger.json("vm", "list")] == ["running"]


def test_set_changes_what_the_guest_sees(banger: Banger) -> None:
    banger.ok(
        "vm", "create", "--name", "grown", "--vcpu", "1", "--memory", "512M", "--disk-size", "1G"
    )
    assert banger.sh("grown", "nproc") == "1"
    banger.sh("grown", "echo kept > /root/file")
    banger.ok("vm", "stop", "grown")

    banger.ok("vm", "set", "grown", "--vcpu", "2", "--memory", "768M", "--disk-size", "3G")
    banger.ok("vm", "start", "grown")

    assert banger.sh("grown", "nproc; cat /root/file").split() == ["2", "kept"]
    assert int(banger.sh("grown", "awk '/MemTotal/ {print $2}' /proc/meminfo")) > 600 * 1024
    size = int(banger.sh("grown", "df --output=size -B1 /root | tail -n 1"))
    assert 2.7 * GIB < size <= 3 * GIB


def test_a_renamed_vm_is_known_by_its_new_name_only(banger: Banger) -> None:
    banger.ok("vm", "create", "--no-start", "--name", "old")

    banger.ok("vm", "set", "old", "--name", "new")

    assert banger.vm("new")["name"] == "new"
    assert banger.run("vm", "show", "old").status != 0


def test_starting_what_runs_and_stopping_what_is_stopped_succeed(banger: Banger) -> None:
    banger.ok("vm", "create", "--no-start", "--name", "twice")
    banger.ok("vm", "stop", "twice")
    banger.ok("vm", "start", "twice")
    pid = banger.vm("twice")["pid"]
    banger.ok("vm", "start", "twice")

    assert banger.vm("twice")["pid"] == pid


def test_logs_are_the_console(shared: Banger) -> None:
    shared.sh("box", "echo said on the console > /dev/console")

    eventually(lambda: "said on the console" in shared.ok("vm", "logs", "box"), "it is logged")
    assert shared.ok("vm", "logs", "--tail", "1", "box").count("\n") == 0


def test_followed_logs_show_what_comes(shared: Banger) -> None:
    with shared.start("vm", "logs", "-f", "box", stdout=-1) as follower:
        assert follower.stdout is not None
        shared.sh("box", "echo a line on the console > /dev/console")
        try:
            lines = iter(follower.stdout.readline, b"")
            assert any(b"a line on the console" in line for line in lines)
        finally:
            follower.terminate()


def test_stats_tell_what_a_vm_uses(shared: Banger) -> None:
    (stats,) = [vm for vm in shared.json("vm", "stats") if vm["name"] == "box"]

    assert stats["rss_bytes"] > 50 << 20
    assert stats["cpu_seconds"] > 0
    assert stats["work_allocated_bytes"] > 0


def test_an_image_in_use_is_not_deleted_and_an_unused_one_is(banger: Banger) -> None:
    (image,) = banger.json("image", "list")
    banger.ok("vm", "create", "--no-start", "--name", "user")
    refused = banger.run("image", "delete", image["name"])
    assert refused.status != 0
    assert "user" in refused.complaint

    banger.ok("vm", "delete", "user")
    banger.ok("image", "delete", image["name"])
    assert banger.json("image", "list") == []


def test_images_and_kernels_are_shown(shared: Banger) -> None:
    (image,) = shared.json("image", "list")
    assert shared.json("image", "show", image["name"]) == image
    (kernel,) = shared.json("kernel", "list")
    assert shared.json("kernel", "show", kernel["name"]) == kernel
    assert image["kernel"] in (kernel["id"], kernel["name"])


def test_published_ports_are_set_and_taken_back(banger: Banger) -> None:
    first, second = free_port(), free_port()
    banger.ok("vm", "create", "--no-start", "--name", "ports", "-p", f"{first}:80")
    assert [port["host_port"] for port in banger.vm("ports")["spec"]["ports"]] == [first]

    banger.ok("vm", "set", "ports", "-p", f"{second}:80")
    assert [port["host_port"] for port in banger.vm("ports")["spec"]["ports"]] == [second]
    banger.ok("vm", "create", "--no-start", "--name", "heir", "-p", f"{first}:80")


@pytest.mark.parametrize("sig", ["TERM", "KILL"])
def test_kill_sends_the_signal(banger: Banger, sig: str) -> None:
    banger.ok("vm", "create", "--name", "victim")
    banger.ok("vm", "kill", "--signal", sig, "victim")

    eventually(lambda: banger.vm("victim")["state"] == "stopped", "it is stopped")


def test_every_operation_is_told_with_its_stages(shared: Banger) -> None:
    created = [
        operation
        for operation in json.loads(shared.api("GET", "/v1/operations").body)
        if operation["target_name"] == "box"
    ]

    assert created[-1]["state"] == "succeeded"
    assert [stage["name"] for stage in created[-1]["stages"]][-1] == "boot"
