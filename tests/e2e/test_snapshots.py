"""Snapshots and suspending with real VMs, and daemons and VMMs that die meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.harness import Banger, alive, eventually, installation, state_of

from banger.daemon.paths.embedded import RUN_STEPS
from banger.daemon.snapshots.checkpoint import KEEP_STEPS, LASTING_STEPS, MEMORY_STEPS
from banger.daemon.vms.lifecycle import go_on_steps
from banger.daemon.vms.suspend import SUSPEND_STEPS

SNAPSHOT = [f"snapshot:{step.name}" for step in (*LASTING_STEPS, *MEMORY_STEPS, *KEEP_STEPS)]
RESTORE = [f"restore:{step.name}" for step in go_on_steps(RUN_STEPS)]
SUSPEND = [f"suspend:{step.name}" for step in (*SUSPEND_STEPS, *reversed(RUN_STEPS))]


@pytest.fixture(scope="module")
def home(images: Path) -> Iterator[Banger]:
    """One VM with a snapshot, `base`, and something that is only in its memory."""
    with installation(images) as banger:
        banger.ok("vm", "create", "--name", "dev", "--memory", "512M")
        sh(banger, "echo precious > /root/file; echo memory > /run/thought; sync")
        banger.ok("vm", "snapshot", "create", "dev", "base")
        yield banger


@pytest.fixture
def dev(home: Banger) -> Iterator[Banger]:
    """That VM, as it was."""
    if not healthy_vm(home):
        home.ok("vm", "snapshot", "restore", "dev", "base")

    yield home
    healthy(home)


def sh(banger: Banger, script: str) -> str:
    return banger.ok("vm", "exec", "dev", "--", "sh", "-c", script)


def healthy_vm(banger: Banger) -> bool:
    check = "cat /root/file /run/thought"
    return banger.run("vm", "exec", "dev", "--", "sh", "-c", check).text == "precious\nmemory"


def faulty(banger: Banger, place: str) -> None:
    banger.ok("daemon", "stop")
    banger.env["BANGER_FAULT"] = place


def healthy(banger: Banger) -> None:
    if banger.env.pop("BANGER_FAULT", None) is not None:
        banger.run("daemon", "stop")


def snapshots(banger: Banger) -> list[str]:
    return [one["name"] for one in banger.json("vm", "snapshot", "list", "dev")]


def settled(banger: Banger) -> str:
    """The state the VM comes to rest in."""
    lasting = ("running", "stopped", "suspended")
    eventually(
        lambda: banger.vm("dev")["state"] in lasting and not banger.vm("dev").get("operation"),
        "it comes to rest",
    )
    return str(banger.vm("dev")["state"])


def is_tidy(banger: Banger) -> None:
    """No files but those of the VM and of its snapshots."""
    banger.ok("gc")
    kept = {one["id"] for one in banger.json("vm", "snapshot", "list", "dev")}
    directory = banger.state_dir / "snapshots"
    assert {path.name for path in directory.iterdir()} == kept
    assert not list(banger.state_dir.rglob("*.part"))
    assert not list((banger.state_dir / "vms").rglob("stream"))


def test_disks_alone_come_back_without_what_was_only_in_memory(dev: Banger) -> None:
    dev.ok("vm", "snapshot", "restore", "dev", "base", "--disks-only")
    assert dev.vm("dev")["state"] == "stopped"
    dev.ok("vm", "start", "dev")
    assert sh(dev, "cat /root/file; cat /run/thought 2>/dev/null || echo none") == "precious\nnone"


def test_a_disk_that_has_grown_is_small_again_and_the_other_way_round(dev: Banger) -> None:
    size = "df --output=size -m /root | tail -1"
    small = int(sh(dev, size))
    dev.ok("vm", "stop", "dev")
    dev.ok("vm", "set", "dev", "--disk-size", "9G")
    dev.ok("vm", "start", "dev")
    assert int(sh(dev, size)) > small
    assert sh(dev, "cat /root/file") == "precious"
    dev.ok("vm", "snapshot", "create", "dev", "large")

    dev.ok("vm", "snapshot", "restore", "dev", "base")
    assert int(sh(dev, size)) == small
    dev.ok("vm", "snapshot", "restore", "dev", "large")
    assert int(sh(dev, size)) > small
    dev.ok("vm", "snapshot", "restore", "dev", "base")
    dev.ok("vm", "snapshot", "delete", "dev", "large")


def test_a_guest_writes_on_while_its_chain_is_flattened(dev: Banger) -> None:
    for number in range(18):
        sh(dev, f"echo {number} > /root/n; sync")
        dev.ok("vm", "snapshot", "create", "dev", f"s{number}")

    assert sh(dev, "cat /root/file /root/n") == "precious\n17"
    dev.ok("vm", "snapshot", "restore", "dev", "s3")
    assert sh(dev, "cat /root/n") == "3"
    dev.ok("vm", "snapshot", "delete", "dev", *[f"s{number}" for number in range(18)])
    assert sh(dev, "cat /root/n") == "3"
    is_tidy(dev)


def test_a_suspended_vm_outlives_a_reboot_of_the_host(dev: Banger, tmp_path: Path) -> None:
    dev.ok("vm", "suspend", "dev")
    dev.ok("daemon", "stop")
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("11111111-2222-3333-4444-555555555555\n")
    dev.env["BANGER_BOOT_ID_FILE"] = str(boot_id)
    try:
        assert dev.vm("dev")["state"] == "suspended"
        dev.ok("vm", "start", "dev")
        assert healthy_vm(dev)
    finally:
        dev.ok("vm", "stop", "dev")
        dev.ok("daemon", "stop")
        del dev.env["BANGER_BOOT_ID_FILE"]


@pytest.mark.sweep
@pytest.mark.parametrize("place", SNAPSHOT)
def test_a_daemon_killed_while_it_keeps_a_vm(dev: Banger, place: str) -> None:
    pid = dev.vm("dev")["pid"]
    faulty(dev, f"{place}:kill")

    assert dev.run("vm", "snapshot", "create", "dev", "doomed").status != 0

    healthy(dev)
    assert settled(dev) == "running"
    assert dev.vm("dev")["pid"] == pid
    assert healthy_vm(dev)
    assert snapshots(dev) == ["base"]
    is_tidy(dev)
    dev.ok("vm", "snapshot", "create", "dev", "doomed")
    dev.ok("vm", "snapshot", "delete", "dev", "doomed")


@pytest.mark.sweep
@pytest.mark.parametrize("place", RESTORE)
def test_a_daemon_killed_while_a_vm_goes_back(dev: Banger, place: str) -> None:
    sh(dev, "echo now > /root/now; sync")
    faulty(dev, f"{place}:kill")

    assert dev.run("vm", "snapshot", "restore", "dev", "base").status != 0

    healthy(dev)
    assert settled(dev) == "stopped"
    assert dev.vmms() == []
    is_tidy(dev)
    if place == RESTORE[-1]:
        dev.ok("vm", "start", "dev")
        assert sh(dev, "cat /root/file /root/now") == "precious\nnow"

    dev.ok("vm", "snapshot", "restore", "dev", "base")
    assert healthy_vm(dev)
    assert sh(dev, "cat /root/now 2>/dev/null || echo none") == "none"


@pytest.mark.sweep
@pytest.mark.parametrize("place", SUSPEND)
def test_a_daemon_killed_while_it_suspends(dev: Banger, place: str) -> None:
    faulty(dev, f"{place}:kill")

    assert dev.run("vm", "suspend", "dev").status != 0

    healthy(dev)
    if settled(dev) == "suspended":
        dev.ok("vm", "start", "dev")

    assert healthy_vm(dev)
    is_tidy(dev)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("place", "command"),
    [
        *[(place, ("vm", "snapshot", "create", "dev", "doomed")) for place in SNAPSHOT],
        *[(place, ("vm", "snapshot", "restore", "dev", "base")) for place in RESTORE[-1:]],
        *[(place, ("vm", "suspend", "dev")) for place in SUSPEND[: len(SUSPEND_STEPS)]],
    ],
)
def test_a_vmm_that_is_killed_meanwhile(dev: Banger, place: str, command: tuple[str, ...]) -> None:
    faulty(dev, f"{place}:stop")
    daemon = dev.daemon_pid()
    with dev.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asked:
        eventually(lambda: state_of(daemon) == "T", "the daemon stands still")
        (vmm,) = dev.vmms()
        os.kill(vmm, signal.SIGKILL)
        eventually(lambda: not alive(vmm), "the VMM is gone")
        os.kill(daemon, signal.SIGCONT)
        _, complaint = asked.communicate(timeout=240)

    assert b"Traceback" not in complaint
    healthy(dev)
    if settled(dev) == "suspended":
        dev.ok("vm", "start", "dev")
        assert healthy_vm(dev)
        return

    assert settled(dev) == "stopped"
    if asked.returncode == 0:
        assert snapshots(dev) == ["base", "doomed"]
        dev.ok("vm", "snapshot", "restore", "dev", "doomed")
        assert healthy_vm(dev)
        dev.ok("vm", "snapshot", "delete", "dev", "doomed")
    else:
        assert snapshots(dev) == ["base"]

    is_tidy(dev)
