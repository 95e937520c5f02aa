"""Death at every step, of the daemon, of the root helper, of the VMM: nothing lost or left."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from tests.e2e.harness import eventually

from banger.daemon.paths.steps import HeardLaunch, Known, RootDevice, Tap
from banger.daemon.vms.start import Initrd, Ready, RunDirectory
from smoke.scenarios.vms import vm
from smoke.world import World

RUN = [step.name for step in (RunDirectory, Tap, Known, RootDevice, Initrd, HeardLaunch)]
_DROP_IN = "/etc/systemd/system/bangerd.service.d/fault.conf"
_HELPER_PID = "systemctl show --property MainPID --value bangerd-root"


def daemon_killed_at_every_step(world: World) -> None:
    """kill -9 of the daemon before each step of start and stop: the next one knows what is so."""
    with vm(world, "x"):
        world.ok("vm", "exec", "x", "--", "sh", "-c", "echo kept >/etc/kept; sync")
        for step in RUN:
            _die(world, "stop", step)
            _at_rest(world)
            _die(world, "start", step)
            _at_rest(world)
            world.ok("vm", "start", "x", timeout=600)

        world.ok("vm", "stop", "x")
        _die(world, "start", Ready.name)
        world.run("vm", "start", "x", timeout=600)
        assert world.ok("vm", "exec", "x", "--", "cat", "/etc/kept") == "kept"


def helper_killed_at_every_step(world: World) -> None:
    """kill -9 of the root helper before each step of start and stop: they go on with the next."""
    with vm(world, "x"):
        for step in RUN:
            with _halted(world, "stop", step) as stopping:
                world.host.sh(f"kill -9 $({_HELPER_PID})")

            assert stopping.returncode == 0, (step, stopping.args)
            _at_rest(world)
            with _halted(world, "start", step) as starting:
                world.host.sh(f"kill -9 $({_HELPER_PID})")

            assert starting.returncode == 0, (step, starting.args)
            assert world.ok("vm", "exec", "x", "--", "echo", "up") == "up"


def vmm_killed_while_it_starts_and_stops(world: World) -> None:
    """kill -9 of Firecracker before its guest is ready, and before each step of a stop."""
    with vm(world, "x"):
        world.ok("vm", "stop", "x")
        with _halted(world, "start", Ready.name) as starting:
            world.host.sh("kill -9 $(pidof firecracker)")

        assert starting.returncode not in (0, None)
        _at_rest(world)
        for step in RUN:
            world.ok("vm", "start", "x", timeout=600)
            with _halted(world, "stop", step) as stopping:
                world.host.run(["pkill", "-9", "firecracker"], check=False)

            assert stopping.returncode == 0, (step, stopping.args)
            _at_rest(world)


def stale_leftovers_are_cleared(world: World) -> None:
    """After a crash: a tap, a root device and a jail nobody owns go; a reused pid is left alone."""
    host = world.host
    with vm(world, "x"):
        found = world.json("vm", "show", "x")
        host.sh("systemctl stop bangerd && kill -9 $(pidof firecracker)")
        host.sh(f"while kill -0 {found['pid']} 2>/dev/null; do sleep 0.2; done")
        # The next process gets the number after this one: proc(5), ns_last_pid.
        stranger = host.sh(
            f"echo {found['pid'] - 1} >/proc/sys/kernel/ns_last_pid;"
            " sleep 1000 </dev/null >/dev/null 2>&1 & echo $!"
        )
        before = world.ask("list_owned")
        assert before["snapshots"]
        host.sh("systemctl start bangerd")
        assert world.json("vm", "show", "x")["state"] == "stopped"
        assert host.run(["kill", "-9", stranger], check=False).status == 0, "it was not its VMM"
        eventually(lambda: world.ask("list_owned")["jails"] == [], "no jail is left", 60)
        assert world.ask("list_owned")["snapshots"] == []

        world.ok("vm", "start", "x", timeout=600)
        assert world.ok("vm", "exec", "x", "--", "echo", "up") == "up"


@contextlib.contextmanager
def _armed(world: World, place: str) -> Iterator[None]:
    """A daemon with that fault; whatever comes after it has none."""
    world.host.sh(
        f"mkdir -p {_DROP_IN.rpartition('/')[0]}"
        f" && printf '[Service]\\nEnvironment=\"BANGER_FAULT={place}\"\\n' >{_DROP_IN}"
        " && systemctl daemon-reload && systemctl restart bangerd"
        f" && rm -r {_DROP_IN.rpartition('/')[0]} && systemctl daemon-reload"
    )
    try:
        yield
    finally:
        world.serves()


def _die(world: World, verb: str, step: str) -> None:
    """Have the daemon die at that step of the VM's."""
    before = world.unit_pid("bangerd")
    with _armed(world, f"{verb}:{step}:kill"):
        died = world.run("vm", verb, "x", timeout=600)
        assert died.status != 0, (verb, step, died)

    assert world.unit_pid("bangerd") != before
    assert world.host.sh("systemctl show --property NRestarts --value bangerd") != "0"


@contextlib.contextmanager
def _halted(world: World, verb: str, step: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that stands still before that step of the VM's; at the end, one that has gone on."""
    with _armed(world, f"{verb}:{step}:stop"):
        command = world.host.start_command(["banger", "vm", verb, "x"], user="dev")
        pid = world.unit_pid("bangerd")
        state = f"ps -o state= -p {pid}"
        eventually(lambda: world.host.sh(state) == "T", f"it reaches {verb}:{step}", 300)
        try:
            yield command
        finally:
            world.host.sh(f"kill -CONT {pid}")

        command.communicate(timeout=600)


def _at_rest(world: World) -> None:
    """The VM is stopped and holds nothing of the host but its disks."""
    found = world.json("vm", "show", "x")
    assert found["state"] == "stopped", found
    owned = world.ask("list_owned")
    assert (owned["snapshots"], owned["jails"]) == ([], []), owned
    assert world.host.run(["pidof", "firecracker"], check=False).status == 1
