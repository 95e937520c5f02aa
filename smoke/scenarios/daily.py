"""What owners do every day, on the installed host: each command's promise, kept by real VMs."""

from __future__ import annotations

from smoke.scenarios.vms import vm
from smoke.world import World

_BOOT_ID = ("cat", "/proc/sys/kernel/random/boot_id")


def throw_away_run(world: World) -> None:
    """A run with --rm is its command: streams, exit status, and no VM afterwards."""
    script = "echo out; echo err >&2; exit 42"
    done = world.run("vm", "run", "--rm", "--", "sh", "-c", script, timeout=600)
    assert (done.status, done.text) == (42, "out"), done
    assert "err" in done.complaint
    assert world.json("vm", "list") == []


def two_runs_at_once(world: World) -> None:
    """Two throw-away VMs run side by side, each with a tap, an address and disks of its own."""
    words = ["banger", "vm", "run", "--rm", "--", "sh", "-c", "hostname; hostname -I"]
    runs = [world.host.start_command(words, user="dev") for _ in range(2)]
    said = [run.communicate(timeout=900) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    first, second = (out.split() for out, _ in said)
    assert not set(first) & set(second), said


def bad_input_leaves_nothing(world: World) -> None:
    """What cannot be is refused in one line, before anything is made."""
    for option in ("--vcpu=0", "--name=Not_A_Name", "--memory=1", "--image=none"):
        refused = world.run("vm", "run", option, "--", "true")
        assert refused.status != 0, refused
        assert "Traceback" not in refused.complaint

    assert world.json("vm", "list") == []


def set_restart_kill_prune(world: World) -> None:
    """A VM is reshaped, booted anew, killed hard and pruned; guest and list show each."""
    with vm(world, "x", "--vcpu", "1"):
        assert world.ok("vm", "exec", "x", "--", "nproc") == "1"
        refused = world.run("vm", "set", "x", "--memory", "1")
        assert refused.status != 0
        assert "sshd" in str(world.json("vm", "ports", "x"))

        before = world.ok("vm", "exec", "x", "--", *_BOOT_ID)
        world.ok("vm", "stop", "x")
        world.ok("vm", "set", "x", "--vcpu", "2")
        world.ok("vm", "start", "x", timeout=600)
        assert world.ok("vm", "exec", "x", "--", "nproc") == "2"
        assert world.ok("vm", "exec", "x", "--", *_BOOT_ID) != before

        before = world.ok("vm", "exec", "x", "--", *_BOOT_ID)
        world.ok("vm", "restart", "x", timeout=600)
        assert world.ok("vm", "exec", "x", "--", *_BOOT_ID) != before

        world.ok("vm", "kill", "--signal", "KILL", "x")
        found = world.json("vm", "show", "x")
        assert (found["state"], found["reason"]) == ("stopped", "killed")
        assert world.ask("list_owned")["snapshots"] == []
        refused = world.run("vm", "exec", "x", "--", "true")
        assert refused.status == 125
        assert "banger vm start x" in refused.complaint

        world.ok("vm", "prune", "--force")
        assert world.json("vm", "list") == []


def rates_are_bounded(world: World) -> None:
    """A disk with a rate takes no more than that in a second."""
    write = "dd if=/dev/zero of=/root/out bs=1M count=40 oflag=direct 2>/dev/null"
    # By the host's clock, which is what Firecracker goes by: emulated, a guest's may run apart.
    timed = f"date +%s%N; banger vm exec x -- sh -c '{write}'; date +%s%N"
    with vm(world, "x", "--disk-rate", "4M", "--net-rate", "1M"):
        began, ended = map(int, world.host.sh(timed, user="dev").split())
        # All but the first second's.
        assert (ended - began) / 1e9 > 40 / 4 - 1, (began, ended)
        assert world.json("vm", "show", "x")["spec"]["disk_rate"] == 4 << 20


def reclaimed_memory_is_the_hosts(world: World) -> None:
    """What a guest has used and freed goes back to the host, until it wants it again."""
    use = "head -c 150M /dev/zero >/dev/shm/x; rm /dev/shm/x; cat /proc/sys/kernel/random/boot_id"
    source = ("cat", "/sys/class/misc/hw_random/rng_current")
    with vm(world, "x", "--memory", "384M"):
        boot = world.ok("vm", "exec", "x", "--", "sh", "-c", use)
        used = _resident(world, "x")
        world.ok("vm", "reclaim", "x", timeout=300)
        freed = _resident(world, "x")
        # What a guest keeps may be some of that.
        assert freed < used - (80 << 20), (used, freed)
        assert world.ok("vm", "exec", "x", "--", "sh", "-c", use) == boot
        assert _resident(world, "x") > freed + (80 << 20), (freed, _resident(world, "x"))
        assert world.ok("vm", "exec", "x", "--", *source) == "virtio_rng.0"


def _resident(world: World, name: str) -> int:
    (used,) = world.json("vm", "stats", name)
    return int(used["rss_bytes"])
