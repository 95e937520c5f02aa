"""VMs at one moment, on real Firecracker and device-mapper: kept, gone back to, doubled."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial

from smoke.scenarios.vms import vm
from smoke.world import World

# The tiny file system of its memory: what is there is in no disk.
_MARK = "echo {0} >/etc/mark; echo {0} >/root/mark; echo {0} >/dev/shm/mark; sync"
_READ = "cat /etc/mark /root/mark /dev/shm/mark | tr '\\n' ' '"
_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"

# How far a guest's clock may be from its host's, of which the way there takes a part.
_CLOCK_SECONDS = 3.0


def snapshot_restore_keeps_contents(world: World) -> None:
    """What memory and both disks held comes back, as often as wanted; stopped, the disks do."""
    with vm(world, "x"):
        _sh(world, "x", _MARK.format("one"))
        checksum = _fill(world, "x")
        booted = _sh(world, "x", _BOOT_ID)
        program = _program(world, "x")
        world.ok("vm", "snapshot", "create", "x", "first", timeout=600)
        assert _sh(world, "x", _BOOT_ID) == booted
        _echoes(program, b"after\n")

        for again in range(2):
            _sh(world, "x", f"{_MARK.format('two')}; rm /root/filled;"
                " dd if=/dev/zero of=/root/other bs=1M count=8 2>/dev/null; sync")  # fmt: skip
            world.ok("vm", "snapshot", "restore", "x", "first", timeout=600)
            if not again:
                # Its VM is not any more what it was.
                _, complaint = program.communicate(timeout=120)
                assert program.returncode == 125, complaint
                assert b"went back to a snapshot" in complaint

            assert _sh(world, "x", _READ) == "one one one"
            assert _sh(world, "x", "sha256sum </root/filled; ls /root") == checksum
            assert _sh(world, "x", _BOOT_ID) == booted
            _whole(world, "x")

        _sh(world, "x", "echo three >/root/mark; sync")
        world.ok("vm", "stop", "x")
        world.ok("vm", "snapshot", "create", "x", "still")
        world.ok("vm", "start", "x", timeout=600)
        _sh(world, "x", "echo four >/root/mark; sync")
        world.ok("vm", "snapshot", "restore", "x", "still")
        assert world.json("vm", "show", "x")["state"] == "stopped"
        world.ok("vm", "start", "x", timeout=600)
        assert _sh(world, "x", "cat /root/mark") == "three"

        names = [kept["name"] for kept in world.json("vm", "snapshot", "list", "x")]
        assert names == ["first", "still"]
        assert world.json("vm", "snapshot", "show", "x", "first")["memory"]
        for name in names:
            world.ok("vm", "snapshot", "delete", "x", name)

        assert world.host.sh("ls /var/lib/banger/snapshots") == ""


def suspend_and_start(world: World) -> None:
    """A suspended VM has no process; started, the same programs go on, with the time of now."""
    with vm(world, "x"):
        _sh(world, "x", _MARK.format("kept"))
        tick = "date +%s >/dev/shm/next && mv /dev/shm/next /dev/shm/tick"
        _sh(world, "x", f"nohup sh -c 'while sleep 0.2; do {tick}; done' >/dev/null 2>&1 &"
            " echo $! >/dev/shm/pid")  # fmt: skip
        booted = _sh(world, "x", _BOOT_ID)
        for _again in range(2):
            world.ok("vm", "suspend", "x", timeout=600)
            assert world.json("vm", "show", "x")["state"] == "suspended"
            assert world.host.run(["pidof", "firecracker"], check=False).status == 1
            owned = world.ask("list_owned")
            assert (owned["snapshots"], owned["jails"]) == ([], [])

            time.sleep(5)
            world.ok("vm", "start", "x", timeout=600)
            assert _sh(world, "x", _BOOT_ID) == booted
            assert _sh(world, "x", _READ) == "kept kept kept"
            _sh(world, "x", "kill -0 $(cat /dev/shm/pid); sleep 2;"
                " test $(($(date +%s) - $(cat /dev/shm/tick))) -le 2")  # fmt: skip
            _on_time(world, "x")
            assert world.ok("vm", "ssh", "x", "--", "hostname") == "x"

        world.ok("vm", "pause", "x")
        assert world.json("vm", "show", "x")["state"] == "paused"
        world.ok("vm", "resume", "x")
        _on_time(world, "x")


def fork_has_its_own_identity(world: World) -> None:
    """Two children of a running VM share its content and nothing that tells VMs apart."""
    with vm(world, "x", "--memory", "384M"), deleted(world, "kid-1", "kid-2"):
        _booted(world, "x")
        _sh(world, "x", _MARK.format("parent"))
        _sh(world, "x", "nohup sleep 100000 >/dev/null 2>&1 & echo $! >/dev/shm/pid")
        booted, address = _sh(world, "x", _BOOT_ID), world.json("vm", "show", "x")["address"]
        session = world.host.start_command(["banger", "vm", "ssh", "x", "--", "cat"], user="dev")
        _echoes(session, b"before\n")
        program = _program(world, "x")
        world.ok("vm", "fork", "x", "--count", "2", "--name", "kid-{n}", timeout=900)
        for still in (session, program):
            _echoes(still, b"after\n")
            still.communicate(timeout=120)
            assert still.returncode == 0

        for kid in ("kid-1", "kid-2"):
            until(partial(_gone, world, kid, "tee"), "what nobody there speaks to has ended", 120)

        everybody = ("x", "kid-1", "kid-2")
        seen = [_identity(world, name) for name in everybody]
        for what in seen[0]:
            values = [identity[what] for identity in seen]
            assert len(set(values)) == len(everybody), (what, values)

        assert world.json("vm", "show", "x")["address"] == address
        for name in everybody:
            assert _sh(world, name, _READ) == "parent parent parent"
            assert _sh(world, name, _BOOT_ID) == booted
            _sh(world, name, "kill -0 $(cat /dev/shm/pid)")
            _on_time(world, name)

        for name in everybody:
            _sh(world, name, f"echo {name} >/etc/mark; echo {name} >/root/mark; sync")

        for name in everybody:
            assert _sh(world, name, "cat /etc/mark /root/mark | tr '\\n' ' '") == f"{name} {name}"

        world.ok("vm", "delete", "x")
        for name in everybody[1:]:
            assert world.ok("vm", "ssh", name, "--", "hostname") == name
            _whole(world, name)


def template_second_run(world: World) -> None:
    """The first run has a template made; the next begin as copies of it, the third one stood by."""
    with templates(world):
        with vm(world, "first"):
            assert world.json("vm", "show", "first")["template"] is None

        until(lambda: world.json("template", "list"), "a template", 1800)
        [template] = world.json("template", "list")
        with vm(world, "second", "--", "hostname") as said:
            assert said == "second"
            assert world.json("vm", "show", "second")["template"] == template["key"]
            until(lambda: _stands_by(world), "one that stands by", 600)
            with vm(world, "third", "--", "hostname") as told:
                assert told == "third"
                seen = [_identity(world, name) for name in ("second", "third")]
                for what, value in seen[0].items():
                    assert value != seen[1][what], what

                for name in ("second", "third"):
                    _sh(world, name, f"echo {name} >/etc/mark; echo {name} >/root/mark; sync")
                    _on_time(world, name)

                for name in ("second", "third"):
                    _whole(world, name)
                    marks = _sh(world, name, "cat /etc/mark /root/mark | tr '\\n' ' '")
                    assert marks == f"{name} {name}"


@contextlib.contextmanager
def templates(world: World) -> Iterator[None]:
    """Let the daemon make templates for a while, which it does not on this host."""
    config = "/etc/banger/config.toml"
    world.host.sh(f"mv {config} {config}.smoke")
    try:
        world.restart_services()
        yield
    finally:
        world.run("template", "prune", "--all", timeout=1800)
        world.host.sh(f"mv {config}.smoke {config}")
        world.restart_services()


def until(holds: Callable[[], object], what: str, seconds: float) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(3)


@contextlib.contextmanager
def deleted(world: World, *names: str) -> Iterator[None]:
    """Whatever happens, VMs of these names are gone afterwards."""
    try:
        yield
    finally:
        for name in names:
            world.run("vm", "delete", name)


def _stands_by(world: World) -> bool:
    """Whether there is a VM more than the owner knows of."""
    return len(world.ask("list_owned")["snapshots"]) > len(world.json("vm", "list"))


def _sh(world: World, name: str, script: str) -> str:
    return world.ok("vm", "exec", name, "--", "sh", "-ec", script, timeout=600)


def _booted(world: World, name: str) -> None:
    """Wait until nothing of its boot is left: children would go on with it, each for itself."""
    _sh(world, name, "systemctl is-system-running --wait || true")


def _fill(world: World, name: str) -> str:
    """Put something that cannot be guessed on the work disk; its checksum, and what is there."""
    script = "dd if=/dev/urandom of=/root/filled bs=1M count=8 2>/dev/null; sync"
    return _sh(world, name, f"{script}; sha256sum </root/filled; ls /root")


def _whole(world: World, name: str) -> None:
    """What is read from its disks, not from memory, can be read, and its kernel is content."""
    _sh(world, name, "echo 3 >/proc/sys/vm/drop_caches; tar c /etc /root 2>/dev/null | wc -c;"
        " ! dmesg | grep -Ei 'ext4.*error|i/o error'")  # fmt: skip


def _program(world: World, name: str) -> subprocess.Popen[bytes]:
    """A `vm exec` of a program that says what it is told, and nothing of its own accord."""
    argv = ["banger", "vm", "exec", name, "--", "tee", "/dev/null"]
    program = world.host.start_command(argv, user="dev")
    _echoes(program, b"before\n")
    return program


def _gone(world: World, name: str, program: str) -> bool:
    return world.run("vm", "exec", name, "--", "pgrep", "-x", program).status == 1


def _echoes(session: subprocess.Popen[bytes], line: bytes) -> None:
    """A program in a guest is alive, and so is the way there."""
    assert session.stdin is not None
    assert session.stdout is not None
    session.stdin.write(line)
    session.stdin.flush()
    assert session.stdout.readline() == line


def _identity(world: World, name: str) -> dict[str, str]:
    """All that tells a VM from others, as its guest says it, and as the host does."""
    vm = world.json("vm", "show", name)
    script = (
        "hostname; cat /etc/machine-id; cat /proc/sys/kernel/random/uuid;"
        " head -c 16 /dev/urandom | od -An -tx1 | tr -d ' ';"
        " ip -4 -o addr show dev eth0 | awk '{print $4}'; cat /sys/class/net/eth0/address"
    )
    hostname, machine, uuid, random, address, mac = _sh(world, name, script).split()
    assert hostname == name
    assert address.split("/")[0] == vm["address"]
    assert world.ok("vm", "ssh", name, "--", "hostname") == name
    resolved = world.host.sh(f"resolvectl query --legend=no {name}.vm")
    assert f" {vm['address']} " in f"{resolved} "
    key = world.host.sh(f"ssh-keyscan -T 20 -t ed25519 {vm['address']} | cut -d' ' -f3", user="dev")
    known = world.host.sh(f"cat /var/lib/banger/vms/{vm['id']}/known_hosts", user="dev")
    assert known.split()[-1] == key
    speakers = world.host.sh("nft list set bridge banger speakers")
    [tap] = re.findall(rf'"(tap-fc-\S+)" \. {mac} \. {re.escape(vm["address"])}\b', speakers)
    return {
        "hostname": hostname,
        "machine id": machine,
        "uuid": uuid,
        "urandom": random,
        "address": address,
        "mac": mac,
        "host key": key,
        "tap": tap,
    }


def _on_time(world: World, name: str) -> None:
    before = time.time()
    began = float(world.host.sh("date +%s.%N"))
    guest = float(_sh(world, name, "date +%s.%N"))
    ended = began + time.time() - before
    assert began - _CLOCK_SECONDS <= guest <= ended + _CLOCK_SECONDS, (began, guest, ended)
