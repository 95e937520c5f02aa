"""Snapshots, forks, suspend and templates through the command line, with real VMs."""

from __future__ import annotations

from tests.e2e.conftest import Installer
from tests.e2e.harness import Banger, eventually

COUNTER = "i=0; while :; do i=$((i + 1)); echo $i > /root/count; sleep 0.2; done"


def count(banger: Banger, vm: str) -> int:
    return int(banger.ok("vm", "exec", vm, "--", "cat", "/root/count") or 0)


def test_a_restored_snapshot_brings_files_and_programs_back(banger: Banger) -> None:
    banger.ok("vm", "create", "--name", "dev")
    banger.ok("vm", "exec", "dev", "--", "sh", "-c", "echo before > /root/f; echo before > /f")
    pid = banger.ok("vm", "exec", "dev", "-d", "--", "sh", "-c", COUNTER)

    assert banger.ok("vm", "snapshot", "create", "dev", "first") == "first"
    banger.ok("vm", "exec", "dev", "--", "sh", "-c", f"echo after | tee /root/f > /f; kill {pid}")
    banger.ok("vm", "snapshot", "restore", "dev", "first")

    assert banger.ok("vm", "exec", "dev", "--", "cat", "/root/f", "/f") == "before\nbefore"
    assert banger.ok("vm", "exec", "dev", "--", "kill", "-0", pid) == ""
    assert [one["name"] for one in banger.json("vm", "snapshot", "list", "dev")] == ["first"]
    banger.ok("vm", "snapshot", "delete", "dev", "first")
    assert banger.json("vm", "snapshot", "list") == []
    assert banger.ok("vm", "exec", "dev", "--", "cat", "/root/f") == "before"


def test_forks_have_names_and_identities_of_their_own_and_the_parent_goes_on(
    banger: Banger,
) -> None:
    banger.ok("vm", "create", "--name", "dev", "--memory", "512M")
    banger.ok("vm", "exec", "dev", "-d", "--", "sh", "-c", COUNTER)
    eventually(lambda: count(banger, "dev") > 3, "the program runs")

    children = banger.ok("vm", "fork", "dev", "--count", "3", "--name", "try-{n}").split()

    assert children == ["try-1", "try-2", "try-3"]
    assert {banger.vm(child)["parent"] for child in children} == {banger.vm("dev")["id"]}
    assert [banger.ok("vm", "exec", child, "--", "hostname") for child in children] == children
    for vm in ("dev", *children):
        seen = count(banger, vm)
        eventually(lambda vm=vm, seen=seen: count(banger, vm) > seen, f"it goes on in {vm}")  # type: ignore[misc]

    banger.ok("vm", "delete", "dev", "try-2")
    assert banger.ok("vm", "exec", "try-3", "--", "hostname") == "try-3"
    assert len(banger.ok("vm", "fork", "-q", "try-1").split()) == 1


def test_a_suspended_vm_goes_on_where_it_was(banger: Banger) -> None:
    banger.ok("vm", "create", "--name", "dev")
    pid = banger.ok("vm", "exec", "dev", "-d", "--", "sh", "-c", COUNTER)
    boot = banger.vm("dev")["boot_id"]

    banger.ok("vm", "suspend", "dev")
    assert banger.vm("dev")["state"] == "suspended"
    assert banger.vmms() == []
    banger.ok("vm", "start", "dev")

    assert banger.vm("dev")["boot_id"] == boot
    assert banger.ok("vm", "exec", "dev", "--", "kill", "-0", pid) == ""
    seen = count(banger, "dev")
    eventually(lambda: count(banger, "dev") > seen, "it goes on")


def test_a_paused_vm_stands_still_until_it_is_resumed(banger: Banger) -> None:
    banger.ok("vm", "create", "--name", "dev")
    banger.ok("vm", "pause", "dev")

    assert banger.vm("dev")["state"] == "paused"
    refused = banger.run("vm", "exec", "dev", "--", "true")
    assert refused.status == 125
    assert "banger vm resume dev" in refused.complaint
    banger.ok("vm", "resume", "dev")
    assert banger.ok("vm", "exec", "dev", "--", "echo", "on") == "on"


def test_a_first_boot_leaves_a_template_and_the_next_vm_starts_from_it(install: Installer) -> None:
    banger = install(templates=True)
    banger.ok("vm", "run", "--rm", "--", "true")
    eventually(lambda: banger.json("template", "list"), "there is a template")
    (template,) = banger.json("template", "list")

    vm, cold = banger.ok("vm", "create", "-q"), banger.ok("vm", "create", "-q", "--cold")

    assert banger.vm(vm)["template"] == template["key"]
    assert banger.vm(cold)["template"] is None
    assert banger.json("template", "list")[0]["clones"] == 1
    assert banger.ok("template", "make", "-q") == template["key"]
    banger.ok("template", "delete", template["key"])
    assert banger.json("template", "list") == []
    assert banger.ok("vm", "exec", vm, "--", "hostname") == vm


def test_a_stopped_vm_has_stopped_copies_and_a_snapshot_of_its_disks(banger: Banger) -> None:
    banger.ok("vm", "create", "--name", "dev")
    banger.ok("vm", "exec", "dev", "--", "sh", "-c", "echo one > /root/f")
    banger.ok("vm", "stop", "dev")
    banger.ok("vm", "snapshot", "create", "dev", "one")

    assert banger.json("vm", "snapshot", "show", "dev", "one")["memory"] is False
    child = banger.ok("vm", "fork", "-q", "dev")
    assert banger.vm(child)["state"] == "stopped"
    banger.ok("vm", "start", child)
    banger.ok("vm", "exec", child, "--", "sh", "-c", "echo two > /root/f")
    banger.ok("vm", "snapshot", "restore", "dev", "one")
    assert banger.vm("dev")["state"] == "stopped"
    banger.ok("vm", "start", "dev")
    assert banger.ok("vm", "exec", "dev", "--", "cat", "/root/f") == "one"


def test_nothing_is_left_for_gc(banger: Banger) -> None:
    banger.ok("vm", "create", "--name", "dev")
    banger.ok("vm", "snapshot", "create", "dev", "first")
    child = banger.ok("vm", "fork", "-q", "dev")
    banger.ok("vm", "delete", "dev", child)
    banger.ok("template", "prune", "--all", "-q")
    banger.ok("gc")

    assert banger.json("gc") == {"removed": [], "freed_bytes": 0}
    assert list((banger.state_dir / "disks").glob("*")) == []


def test_what_cannot_be_is_one_line_and_a_hint(banger: Banger) -> None:
    banger.ok("vm", "create", "--name", "off", "--no-start")
    for words, code in (
        ("vm pause off", "vm_not_running"),
        ("vm resume off", "vm_not_running"),
        ("vm suspend off", "vm_not_running"),
        ("vm fork nobody", "unknown_vm"),
        ("vm snapshot restore off none", "unknown_snapshot"),
        ("vm snapshot delete off none", "unknown_snapshot"),
        ("vm fork off --snapshot none", "unknown_snapshot"),
        ("template delete none", "unknown_template"),
    ):
        outcome = banger.run(*words.split(), "--json")
        assert outcome.status == 1, outcome
        assert f'"{code}"' in outcome.text, outcome
        assert "hint: " in outcome.complaint, outcome
