"""Inside, it is a normal Debian: made to boot fast, not made odd."""

from __future__ import annotations

import time

import pytest
from tests.e2e.harness import Banger, eventually


def test_systemd_is_content(shared: Banger) -> None:
    eventually(
        lambda: (
            shared.run("vm", "ssh", "box", "--", "systemctl", "is-system-running").text == "running"
        ),
        "no unit failed and nothing is queued",
    )
    assert shared.sh("box", "systemctl --failed --no-legend") == ""


def test_the_journal_has_this_boot(shared: Banger) -> None:
    assert "Linux version" in shared.sh("box", "journalctl -b -k -n 5000 --no-pager")
    assert "sshd" in shared.sh("box", "journalctl -b -u ssh --no-pager")


def test_a_users_unit_and_timer_run(shared: Banger) -> None:
    shared.sh("box", "systemd-run --wait --quiet touch /run/by-a-unit; ls /run/by-a-unit")


def test_host_name_and_names_resolve(shared: Banger) -> None:
    assert (
        shared.sh("box", "hostname; hostnamectl --static; cat /etc/hostname").split() == ["box"] * 3
    )
    assert shared.sh("box", "getent hosts box") != ""
    assert shared.sh("box", "getent ahostsv4 localhost").startswith("127.0.0.1")


def test_without_egress_a_lookup_fails_at_once_instead_of_timing_out(shared: Banger) -> None:
    shared.sh("box", "! grep -s nameserver /etc/resolv.conf")
    shared.sh("box", "! timeout 5 getent hosts deb.example")


def test_the_guest_has_the_address_banger_says(shared: Banger) -> None:
    assert shared.vm("box")["address"] in shared.sh("box", "ip -4 -o addr show")


def test_time_is_right(shared: Banger) -> None:
    before = time.time()
    guest = float(shared.sh("box", "date +%s.%N"))

    assert before - 5 <= guest <= time.time() + 5


def test_apt_and_dpkg_are_in_order(shared: Banger) -> None:
    shared.sh("box", "dpkg --audit && apt-get check -q && apt-get -s -q install --reinstall bash")
    assert "bookworm" in shared.sh("box", "cat /etc/apt/sources.list /etc/apt/sources.list.d/*||:")


def test_the_disks_are_what_they_should_be(shared: Banger) -> None:
    mounts = dict(
        line.split() for line in shared.sh("box", "findmnt -rno TARGET,FSTYPE --real").splitlines()
    )

    assert mounts["/"] == "ext4"
    assert mounts["/root"] == "ext4"
    assert shared.sh("box", "findmnt -no SOURCE /") != shared.sh("box", "findmnt -no SOURCE /root")
    shared.sh("box", "touch /etc/writable /root/writable /tmp/writable && rm /etc/writable")


def test_the_guest_has_the_memory_and_cpus_banger_says(shared: Banger) -> None:
    spec = shared.vm("box")["spec"]
    kib = int(shared.sh("box", "awk '/MemTotal/ {print $2}' /proc/meminfo"))

    assert int(shared.sh("box", "nproc")) == spec["vcpus"]
    assert 0.85 * spec["memory"] < kib * 1024 <= spec["memory"]


def test_the_kernel_has_a_source_of_entropy_on_the_host(shared: Banger) -> None:
    source = shared.ok("vm", "exec", "box", "--", "cat", "/sys/class/misc/hw_random/rng_current")
    assert source == "virtio_rng.0"


def test_the_kernels_modules_are_there(shared: Banger) -> None:
    shared.sh("box", "modprobe dummy && modprobe -r dummy && modprobe overlay && modprobe loop")


def test_locale_and_path_are_those_of_a_login(shared: Banger) -> None:
    path = shared.sh("box", "echo $PATH")

    assert "/usr/local/bin" in path.split(":")
    assert "/usr/sbin" in path.split(":")
    assert shared.sh("box", "whoami; echo $HOME").split() == ["root", "/root"]


@pytest.mark.parametrize("tool", ["python3", "git", "curl", "ip", "ssh", "update-ca-certificates"])
def test_the_tools_of_the_default_image_are_there(shared: Banger, tool: str) -> None:
    assert shared.sh("box", f"command -v {tool}")


def test_two_vms_share_no_identity(shared: Banger) -> None:
    shared.ok("vm", "create", "--name", "twin")
    try:
        for question in (
            "cat /etc/machine-id",
            "cat /etc/ssh/ssh_host_*_key.pub /run/*/ssh_host_*_key.pub 2>/dev/null; true",
            "cat /proc/sys/kernel/random/boot_id",
            "head -c 16 /dev/urandom | base64",
            "ip -4 -o addr show scope global",
            "cat /sys/class/net/e*/address",
        ):
            assert shared.sh("box", question) != shared.sh("twin", question), question
    finally:
        shared.ok("vm", "delete", "twin")
