"""Who a clone is: nobody else, and never for a moment who it was made of."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.harness import Banger, eventually, installation

# Writes down who and where it is, together with what nobody else can know.
DIARY = (
    "while :; do echo $(cat /proc/sys/kernel/hostname /etc/machine-id)"
    " $(head -c 8 /dev/urandom | od -An -tx1 | tr -d ' \\n') >> /root/diary; sleep 0.2; done"
)
CLONES = ("one", "two")

# A clock that is right is asked by a program that has to start first.
CLOCK_SECONDS = 1.0


@pytest.fixture(scope="module")
def family(images: Path) -> Iterator[Banger]:
    """A parent that keeps a diary, its two forks, and a snapshot of it."""
    with installation(images) as banger:
        banger.ok("vm", "create", "--name", "dev", "--memory", "512M")
        banger.ok("vm", "exec", "dev", "-d", "--", "sh", "-c", DIARY)
        eventually(lambda: len(diary(banger, "dev")) > 2, "the diary begins")
        for name in CLONES:
            banger.ok("vm", "fork", "dev", "--name", name)

        yield banger


def sh(banger: Banger, vm: str, script: str) -> str:
    return banger.ok("vm", "exec", vm, "--", "sh", "-c", script)


def diary(banger: Banger, vm: str) -> list[list[str]]:
    lines = [line.split() for line in sh(banger, vm, "cat /root/diary || true").splitlines()]
    return [line for line in lines if len(line) == 3]


def written_by(banger: Banger, vm: str, name: str) -> set[str]:
    """What somebody of that name drew at random, as far as `vm` knows."""
    return {word for known, _, word in diary(banger, vm) if known == name}


@pytest.mark.parametrize(
    "script",
    [
        "head -c 32 /dev/urandom | od -An -tx1",
        "cat /proc/sys/kernel/random/uuid",
        "cat /proc/sys/kernel/hostname",
        "cat /etc/machine-id",
        "ip -4 -o addr show eth0 | awk '{print $4}'",
        "cat /sys/class/net/eth0/address",
    ],
)
def test_no_two_of_a_family_answer_alike(family: Banger, script: str) -> None:
    answers = [sh(family, vm, script) for vm in ("dev", *CLONES)]
    assert all(answers), answers
    assert len(set(answers)) == 3, answers


def test_names_inside_are_those_outside(family: Banger) -> None:
    for vm in CLONES:
        assert sh(family, vm, "hostname") == vm
        assert family.vm(vm)["address"] in sh(family, vm, "ip -4 -o addr show eth0")
        assert sh(family, vm, "getent hosts $(hostname)")


def test_nothing_runs_in_a_clone_before_it_is_itself(family: Banger) -> None:
    for vm in CLONES:
        eventually(lambda vm=vm: written_by(family, vm, vm), "its diary goes on")  # type: ignore[misc]
        # Whatever it wrote under its parent's name, its parent wrote; but for a line it had begun.
        older = written_by(family, vm, "dev") - written_by(family, "dev", "dev")
        assert len(older) <= 1, older
        (machine,) = {machine for name, machine, _ in diary(family, vm) if name == vm}
        assert machine == sh(family, vm, "cat /etc/machine-id")


def test_clones_do_not_share_what_they_draw_at_random(family: Banger) -> None:
    drawn = [written_by(family, vm, vm) for vm in CLONES]
    assert all(drawn)
    assert not drawn[0] & drawn[1]


def test_clocks_are_the_hosts(family: Banger) -> None:
    family.ok("vm", "pause", "dev")
    time.sleep(3)
    family.ok("vm", "resume", "dev")
    for vm in ("dev", *CLONES):
        before = time.time()
        inside = float(sh(family, vm, "date +%s.%N"))
        assert before - CLOCK_SECONDS < inside < time.time() + CLOCK_SECONDS, vm


def test_ssh_knows_each_of_them_and_only_by_its_own_key(family: Banger) -> None:
    for vm in ("dev", *CLONES):
        sh(family, vm, "pkill -f '[u]random' || true")
        # Strict checking is how banger calls ssh.
        assert family.ok("vm", "ssh", vm, "--", "hostname") == vm

    known = {vm: family.api("GET", f"/v1/vms/{vm}/ssh").value for vm in ("dev", *CLONES)}
    for endpoint in known.values():
        (key,) = Path(endpoint["known_hosts_file"]).read_text().splitlines()
        assert key.split()[1:] == _scanned(endpoint["port"])

    first, second = known["one"], known["two"]
    stranger = subprocess.run(
        [
            "ssh", "-F", "none", "-p", str(first["port"]), "-i", first["identity_file"],
            "-o", f"UserKnownHostsFile={second['known_hosts_file']}",
            "-o", f"HostKeyAlias={second['host_key_alias']}",
            "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "root@127.0.0.1", "true",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert stranger.returncode == 255
    assert "Host key verification failed" in stranger.stderr


def _scanned(port: int) -> list[str]:
    """Type and key of what listens there."""
    command = ["ssh-keyscan", "-T", "60", "-t", "ed25519", "-p", str(port), "127.0.0.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()[1:]
