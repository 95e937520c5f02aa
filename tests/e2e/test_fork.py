"""Forks of real VMs: all or none, whatever dies meanwhile, and independent of each other."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.harness import Banger, alive, eventually, installation, state_of

from banger.daemon.snapshots.checkpoint import LIVE_STEPS, MEMORY_STEPS

FORK = [f"fork:{step.name}" for step in (*LIVE_STEPS, *MEMORY_STEPS)]
CHILD = ["create:work disk", "start:launch", "start:identity"]


@pytest.fixture(scope="module")
def home(images: Path) -> Iterator[Banger]:
    """One VM that runs, with something that is only in its memory."""
    with installation(images) as banger:
        banger.ok("vm", "create", "--name", "dev", "--memory", "512M")
        sh(banger, "dev", "echo precious > /root/file; echo memory > /run/thought; sync")
        banger.ok("vm", "snapshot", "create", "dev", "base")
        yield banger


@pytest.fixture
def dev(home: Banger) -> Iterator[Banger]:
    yield home
    if home.env.pop("BANGER_FAULT", None) is not None:
        home.run("daemon", "stop")

    others = [name for name in names(home) if name != "dev"]
    if others:
        home.ok("vm", "delete", *others)

    if home.vm("dev")["state"] != "running":
        home.ok("vm", "snapshot", "restore", "dev", "base")


def sh(banger: Banger, vm: str, script: str) -> str:
    return banger.ok("vm", "exec", vm, "--", "sh", "-c", script)


def names(banger: Banger) -> list[str]:
    return [vm["name"] for vm in banger.json("vm", "list")]


def is_well(banger: Banger, vm: str = "dev") -> bool:
    return sh(banger, vm, "cat /root/file /run/thought") == "precious\nmemory"


def faulty(banger: Banger, place: str) -> None:
    banger.ok("daemon", "stop")
    banger.env["BANGER_FAULT"] = place


def healthy(banger: Banger) -> None:
    banger.run("daemon", "stop")
    del banger.env["BANGER_FAULT"]


def test_what_one_of_them_writes_the_others_do_not_see(dev: Banger) -> None:
    children = dev.ok("vm", "fork", "-q", "dev", "--count", "3").split()
    family = ("dev", *children)
    for vm in family:
        assert is_well(dev, vm)
        sh(dev, vm, f"echo {vm} > /root/own; echo {vm} > /etc/own; sync")

    for vm in family:
        assert sh(dev, vm, "cat /root/own /etc/own") == f"{vm}\n{vm}"

    first, *others = children
    dev.ok("vm", "restart", first)
    assert sh(dev, first, "cat /root/file /root/own") == f"precious\n{first}"
    dev.ok("vm", "delete", *others)
    dev.ok("gc")
    assert is_well(dev)
    assert sh(dev, first, "cat /root/file") == "precious"


def test_a_stopped_vm_is_forked_into_copies_that_start(dev: Banger) -> None:
    (source,) = dev.ok("vm", "fork", "-q", "dev", "--name", "source").split()
    dev.ok("vm", "stop", source)
    (copy,) = dev.ok("vm", "fork", "-q", source, "--name", "copy").split()
    assert dev.vm(copy)["state"] == "stopped"
    dev.ok("vm", "start", copy)
    assert sh(dev, copy, "cat /root/file") == "precious"
    assert sh(dev, copy, "hostname") == "copy"


def test_a_snapshot_can_be_forked_after_its_vm_has_gone_on(dev: Banger) -> None:
    dev.ok("vm", "snapshot", "create", "dev", "then")
    sh(dev, "dev", "echo now > /root/now; sync")
    (child,) = dev.ok("vm", "fork", "-q", "dev", "--snapshot", "then").split()
    assert is_well(dev, child)
    assert sh(dev, child, "cat /root/now 2>/dev/null || echo none") == "none"
    dev.ok("vm", "snapshot", "delete", "dev", "then")
    assert is_well(dev, child)


@pytest.mark.sweep
@pytest.mark.parametrize("place", [*FORK, *CHILD])
def test_a_daemon_killed_while_it_forks(dev: Banger, place: str) -> None:
    pid = dev.vm("dev")["pid"]
    faulty(dev, f"{place}:kill")

    assert dev.run("vm", "fork", "dev", "--count", "2").status != 0

    healthy(dev)
    eventually(lambda: names(dev) == ["dev"], "no child is left")
    eventually(lambda: not dev.vm("dev").get("operation"), "it comes to rest")
    assert dev.vm("dev")["pid"] == pid
    assert is_well(dev)
    assert dev.vmms() == [pid]
    dev.ok("gc")
    assert len(list((dev.state_dir / "snapshots").glob("*"))) == 1


@pytest.mark.parametrize("place", [*FORK[-1:], *CHILD[-1:]])
def test_a_child_that_fails_takes_the_others_back(dev: Banger, place: str) -> None:
    faulty(dev, f"{place}:raise")

    refused = dev.run("vm", "fork", "dev", "--count", "3")

    assert refused.status != 0
    assert "injected" in refused.complaint
    assert names(dev) == ["dev"]
    assert is_well(dev)
    assert len(dev.vmms()) == 1


@pytest.mark.sweep
@pytest.mark.parametrize("place", [*FORK, *CHILD])
def test_a_parents_vmm_that_is_killed_meanwhile(dev: Banger, place: str) -> None:
    faulty(dev, f"{place}:stop")
    daemon = dev.daemon_pid()
    parent = dev.vm("dev")["pid"]
    with dev.start("vm", "fork", "dev", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        eventually(lambda: state_of(daemon) == "T", "the daemon stands still")
        os.kill(parent, signal.SIGKILL)
        eventually(lambda: not alive(parent), "the VMM is gone")
        os.kill(daemon, signal.SIGCONT)
        _, complaint = asked.communicate(timeout=240)

    assert b"Traceback" not in complaint
    healthy(dev)
    eventually(lambda: dev.vm("dev")["state"] == "stopped", "it is known to be gone")
    children = [name for name in names(dev) if name != "dev"]
    assert len(children) == (1 if asked.returncode == 0 else 0)
    assert all(is_well(dev, child) for child in children)
    assert len(dev.vmms()) == len(children)
    dev.ok("gc")
    assert len(list((dev.state_dir / "snapshots").glob("*"))) == 1


def test_a_childs_vmm_that_is_killed_takes_the_fork_back(dev: Banger) -> None:
    faulty(dev, f"{CHILD[-1]}:stop")
    daemon = dev.daemon_pid()
    parent = dev.vm("dev")["pid"]
    with dev.start("vm", "fork", "dev", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        eventually(lambda: state_of(daemon) == "T", "the daemon stands still")
        (child,) = set(dev.vmms()) - {parent}
        os.kill(child, signal.SIGKILL)
        eventually(lambda: not alive(child), "the VMM is gone")
        os.kill(daemon, signal.SIGCONT)
        _, complaint = asked.communicate(timeout=240)

    assert asked.returncode != 0
    assert b"Traceback" not in complaint
    assert names(dev) == ["dev"]
    assert is_well(dev)
