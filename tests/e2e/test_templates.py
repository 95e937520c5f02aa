"""Templates with real VMs: a second VM that need not boot, and what it shares with no other."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Installer
from tests.e2e.harness import Banger, alive, eventually, free_port, installation

# What two machines must not have in common, a word each.
WHO_AM_I = """
hostname; cat /etc/hostname /etc/machine-id
head -c 16 /dev/urandom | od -An -tx8 | tr -d ' '
cat /proc/sys/kernel/random/uuid
ip -4 -o addr show eth0 | awk '{print $4}'; cat /sys/class/net/eth0/address
cut -d' ' -f2 /run/banger/ssh_host_ed25519_key.pub
"""

# Unit tests do this at every step; here a real VMM has to be found and ended.
STEPS = ("launch", "boot", "settle", "save", "convert", "sync")


@pytest.fixture(scope="module")
def warm(images: Path) -> Iterator[Banger]:
    """An installation with a template for VMs of the default shape."""
    with installation(images, templates=True) as banger:
        banger.ok("template", "make", "-q")
        yield banger


def script(banger: Banger, vm: str, text: str) -> str:
    return banger.ok("vm", "exec", vm, "--", "sh", "-c", text)


def restart(banger: Banger, vm: str) -> None:
    banger.ok("vm", "restart", vm)


def reboot(banger: Banger, vm: str) -> None:
    """From within: the VMM stays."""
    boot = banger.vm(vm)["boot_id"]
    script(banger, vm, "(sleep 0.2; reboot) >/dev/null 2>&1 &")
    eventually(lambda: banger.vm(vm)["boot_id"] != boot, "it has rebooted")


def test_two_clones_have_nothing_in_common_that_makes_a_machine(warm: Banger) -> None:
    one, two = (warm.ok("vm", "create", "-q") for _ in range(2))

    assert warm.vm(one)["template"] == warm.vm(two)["template"] is not None
    first, second = (script(warm, vm, WHO_AM_I).split() for vm in (one, two))
    assert len(first) == len(second) == 8
    assert not set(first) & set(second)
    assert first[:2] == [one, one]
    assert first[5].partition("/")[0] == warm.vm(one)["address"]
    warm.ok("vm", "delete", one, two)


def test_a_vm_that_stands_by_is_seen_by_nobody_until_it_is_somebodys(warm: Banger) -> None:
    warm.ok("vm", "run", "--rm", "--", "true")
    eventually(lambda: len(warm.vmms()) == 1 and warm.json("vm", "list") == [], "one stands by")
    eventually(lambda: standing_by(warm), "it stands still")
    (pid,) = warm.vmms()

    dev = warm.ok("vm", "create", "-q", "--name", "dev")
    other = warm.ok("vm", "create", "-q")

    assert warm.vm(dev)["pid"] == pid
    assert warm.vm(other)["pid"] != pid
    first, second = (script(warm, vm, WHO_AM_I).split() for vm in (dev, other))
    assert first[:2] == ["dev", "dev"]
    assert not set(first) & set(second)
    assert abs(float(script(warm, dev, "date +%s.%N")) - time.time()) < 1
    assert warm.sh(dev, "hostname") == "dev"
    for change in (reboot, restart):
        change(warm, dev)
        assert script(warm, dev, "hostname; cat /etc/machine-id").split() == [dev, first[2]]

    warm.ok("vm", "delete", dev, other)


def standing_by(banger: Banger) -> bool:
    """Whether the store holds a VM that was made ahead and is complete."""
    with contextlib.closing(sqlite3.connect(banger.state_dir / "state.db")) as store:
        rows = store.execute("SELECT body FROM vms WHERE state = 'paused'").fetchall()
        return any(json.loads(body).get("standby") for (body,) in rows)


def test_a_clones_clock_is_the_hosts_and_its_services_run(warm: Banger) -> None:
    vm = warm.ok("vm", "create", "-q")

    before = time.time()
    told = float(script(warm, vm, "date +%s.%N"))
    assert before - 1 < told < time.time() + 1
    assert script(warm, vm, "systemctl is-system-running || true") in ("running", "degraded")
    warm.ok("vm", "delete", vm)


def test_ssh_to_a_clone_meets_the_host_key_that_was_made_for_it(warm: Banger) -> None:
    vm = warm.ok("vm", "create", "-q")

    assert warm.sh(vm, "hostname") == vm
    warm.ok("vm", "delete", vm)


def test_clones_do_not_see_each_others_files(warm: Banger) -> None:
    one, two = (warm.ok("vm", "create", "-q") for _ in range(2))

    script(warm, one, "echo secret | tee /root/f > /f; sync")
    assert script(warm, two, "ls /root/f /f 2>/dev/null || true") == ""
    three = warm.ok("vm", "create", "-q")
    assert script(warm, three, "ls /root/f /f 2>/dev/null || true") == ""
    warm.ok("vm", "delete", one, two, three)


def test_a_clone_reboots_and_starts_again_as_itself_with_its_files(warm: Banger) -> None:
    vm = warm.ok("vm", "create", "-q")
    script(warm, vm, "echo mine > /root/f; echo mine > /f; sync")
    who = script(warm, vm, "cat /etc/machine-id; hostname")

    for change in (restart, reboot):
        change(warm, vm)
        assert script(warm, vm, "cat /root/f /f") == "mine\nmine"
        assert script(warm, vm, "cat /etc/machine-id; hostname") == who

    warm.ok("vm", "delete", vm)


def test_a_published_port_leads_into_the_clone(warm: Banger) -> None:
    port = free_port()
    vm = warm.ok("vm", "create", "-q", "-p", f"{port}:8000")
    script(warm, vm, "cd /root && echo served > index.html")
    warm.ok("vm", "exec", "-d", vm, "--", "python3", "-m", "http.server", "-d", "/root", "8000")

    def answered() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as reply:
                return bool(reply.read() == b"served\n")
        except OSError:
            return False

    eventually(answered, "the guest's server answers")
    warm.ok("vm", "delete", vm)


def test_deleting_the_template_leaves_its_clones_running(warm: Banger) -> None:
    vm = warm.ok("vm", "create", "-q")
    script(warm, vm, "echo mine > /root/f")
    warm.ok("template", "prune", "--all")
    warm.ok("gc")

    assert warm.json("template", "list") == []
    assert script(warm, vm, "cat /root/f; md5sum /usr/bin/git > /dev/null && echo whole") == (
        "mine\nwhole"
    )
    warm.ok("vm", "restart", vm)
    assert script(warm, vm, "cat /root/f") == "mine"
    warm.ok("vm", "delete", vm)
    warm.ok("template", "make", "-q")


def test_damaged_memory_is_noticed_and_the_vm_boots(warm: Banger) -> None:
    (template,) = warm.json("template", "list")
    state = warm.state_dir / "templates" / template["key"] / "memory" / "state"
    content = state.read_bytes()
    state.chmod(0o600)
    state.write_bytes(bytes(len(content)))

    assert warm.ok("vm", "run", "--rm", "--", "echo", "up") == "up"
    warm.ok("template", "make", "-q")


@pytest.mark.sweep
@pytest.mark.parametrize("step", STEPS)
def test_a_daemon_killed_while_it_makes_one_leaves_nothing(install: Installer, step: str) -> None:
    banger = install({"BANGER_FAULT": f"template:{step}:kill"}, templates=True)

    assert banger.run("template", "make").status != 0

    clean = {"BANGER_FAULT": ""}
    assert banger.ok("template", "list", "--json", env=clean) == "[]"
    eventually(lambda: not banger.vmms(), "its VMM is gone")
    eventually(lambda: not list((banger.state_dir / "templates").glob("*")), "its files are gone")
    eventually(lambda: not list((banger.state_dir / "disks").glob("*")), "its disks are gone")


def test_a_vmm_killed_while_one_is_made_is_an_error_and_leaves_nothing(install: Installer) -> None:
    banger = install(templates=True)
    making = banger.start("template", "make")
    eventually(banger.vmms, "its VMM runs")
    (pid,) = banger.vmms()
    os.kill(pid, signal.SIGKILL)

    assert making.wait(60) != 0
    assert not alive(pid)
    assert banger.json("template", "list") == []
    assert not list((banger.state_dir / "templates").glob("*"))
