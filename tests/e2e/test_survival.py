"""What survives: data, VMs and the truth about them, through every kind of ending."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Installer
from tests.e2e.harness import Banger, alive, eventually, installation

GUEST_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def home(images: Path) -> Iterator[Banger]:
    """One installation with one VM, `kept`, which each test finds and leaves as it likes."""
    with installation(images) as banger:
        banger.ok("vm", "create", "--name", "kept")
        yield banger


@pytest.fixture
def kept(home: Banger) -> Banger:
    if home.vm("kept")["state"] != "running":
        home.ok("vm", "start", "kept")

    return home


def _is(banger: Banger, state: str) -> bool:
    return bool(banger.vm("kept")["state"] == state)


def test_data_in_root_survives_stop_and_start_without_a_sync_of_the_users(kept: Banger) -> None:
    kept.sh("kept", "echo precious > /root/file; echo system > /etc/marker")

    kept.ok("vm", "stop", "kept")
    assert _is(kept, "stopped")
    assert kept.vmms() == []
    kept.ok("vm", "start", "kept")

    assert kept.sh("kept", "cat /root/file /etc/marker") == "precious\nsystem"


def test_data_in_root_survives_the_death_of_the_vmm_after_an_fsync(kept: Banger) -> None:
    kept.sh("kept", "echo durable > /root/durable; sync /root/durable")

    os.kill(kept.vm("kept")["pid"], signal.SIGKILL)

    eventually(lambda: _is(kept, "stopped"), "the death is seen")
    assert kept.vm("kept")["reason"]
    kept.ok("vm", "start", "kept")
    assert kept.sh("kept", "cat /root/durable") == "durable"


def test_a_restart_is_a_new_boot_at_the_same_address(kept: Banger) -> None:
    before, port = kept.sh("kept", GUEST_BOOT_ID), kept.vm("kept")["ssh_port"]

    kept.ok("vm", "restart", "kept")

    assert kept.sh("kept", GUEST_BOOT_ID) != before
    assert kept.vm("kept")["ssh_port"] == port


def test_a_guest_that_powers_itself_off_is_seen_as_stopped(kept: Banger) -> None:
    kept.run("vm", "ssh", "kept", "--", "systemctl", "poweroff")

    eventually(lambda: _is(kept, "stopped"), "the poweroff is seen")
    assert "powered off" in kept.vm("kept")["reason"]
    assert kept.vmms() == []


def test_a_guest_that_reboots_comes_back_and_is_told_truly(kept: Banger) -> None:
    before = kept.sh("kept", GUEST_BOOT_ID)
    assert kept.vm("kept")["boot_id"] == before

    kept.run("vm", "ssh", "kept", "--", "systemctl", "reboot")

    def rebooted() -> bool:
        vm: dict[str, Any] = kept.vm("kept")
        return vm["state"] == "running" and vm.get("boot_id") not in (None, before)

    eventually(rebooted, "the reboot is seen")
    assert kept.sh("kept", GUEST_BOOT_ID) == kept.vm("kept")["boot_id"]


def test_kill_ends_the_vmm_at_once_and_the_vm_starts_again(kept: Banger) -> None:
    pid = kept.vm("kept")["pid"]

    kept.ok("vm", "kill", "kept")

    assert not alive(pid)
    eventually(lambda: _is(kept, "stopped"), "it is stopped")


def test_a_killed_daemon_is_replaced_and_finds_the_same_vm(kept: Banger) -> None:
    before = kept.vm("kept")

    dead = kept.kill_daemon()

    after = kept.vm("kept")
    assert kept.daemon_pid() != dead
    assert (after["state"], after["pid"]) == ("running", before["pid"])
    assert kept.sh("kept", GUEST_BOOT_ID) == before["boot_id"] == after["boot_id"]


def test_a_stopped_daemon_leaves_its_vms_running(kept: Banger) -> None:
    before = kept.vm("kept")

    kept.ok("daemon", "stop")

    assert alive(before["pid"])
    assert kept.vm("kept")["boot_id"] == before["boot_id"]


def test_a_vm_that_dies_while_no_daemon_looks_is_seen_by_the_next_one(kept: Banger) -> None:
    pid = kept.vm("kept")["pid"]
    kept.kill_daemon()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid), "the VMM is gone")

    assert not _is(kept, "running")
    eventually(lambda: _is(kept, "stopped"), "it is stopped")
    assert kept.vm("kept")["reason"]


def test_a_guest_that_reboots_while_no_daemon_looks_is_seen_by_the_next_one(
    kept: Banger,
) -> None:
    before = kept.sh("kept", GUEST_BOOT_ID)
    kept.sh("kept", "systemd-run --on-active=2 systemctl reboot")
    kept.kill_daemon()

    def rebooted() -> bool:
        return bool(kept.vm("kept").get("boot_id") not in (None, before))

    eventually(rebooted, "the new boot is seen")
    assert kept.sh("kept", GUEST_BOOT_ID) == kept.vm("kept")["boot_id"]


def test_after_a_host_reboot_nothing_says_running_and_everything_works(
    install: Installer, tmp_path: Path
) -> None:
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("11111111-1111-4111-8111-111111111111\n")
    banger = install({"BANGER_BOOT_ID_FILE": str(boot_id)})
    banger.ok("vm", "create", "--name", "kept")
    banger.ok("vm", "create", "--name", "other")
    banger.sh("kept", "echo before > /root/file; sync")

    _cut_the_power(banger)
    boot_id.write_text("22222222-2222-4222-8222-222222222222\n")

    assert "running" not in [vm["state"] for vm in banger.json("vm", "list")]
    eventually(lambda: _is(banger, "stopped"), "the VM is stopped")
    assert "reboot" in banger.vm("kept")["reason"]
    banger.ok("vm", "start", "kept")
    assert banger.sh("kept", "cat /root/file") == "before"
    banger.ok("vm", "delete", "kept", "other")
    assert banger.leftovers() == []


def _cut_the_power(banger: Banger) -> None:
    """All processes gone at once, and the run directory empty, as after a power cut."""
    vmms = banger.vmms()
    banger.kill_daemon()
    for pid in vmms:
        os.kill(pid, signal.SIGKILL)

    eventually(lambda: not banger.processes(), "every process is gone")
    for path in sorted(banger.run_dir.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
