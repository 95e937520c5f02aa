"""What becomes of VMs when their host ends."""

from __future__ import annotations

from smoke.scenarios.vms import vm
from smoke.world import World


def host_shutdown_loses_nothing(world: World) -> None:
    """Guests are asked to end before the host is: what no program has synced is there after it."""
    with vm(world, "x"):
        _write(world, "one")
        world.host.reboot()
        _is_whole(world, "one", reason="the host shut down")

        _write(world, "two")
        world.host.sh("systemctl stop bangerd")
        world.host.reboot()
        _is_whole(world, "two", reason="the host rebooted")


def _write(world: World, text: str) -> None:
    world.ok("vm", "exec", "x", "--", "sh", "-c", "echo $0 | tee /root/file >/etc/file", text)


def _is_whole(world: World, text: str, *, reason: str) -> None:
    """The host has shut down; start the VM."""
    found = world.json("vm", "show", "x")
    assert (found["state"], found["reason"]) == ("stopped", reason)
    ended = world.host.sh("journalctl --boot -1 --output cat --unit banger-guests")
    assert "no VM runs" in ended
    assert "timed out" not in ended

    world.ok("vm", "start", "x")
    said = world.ok("vm", "exec", "x", "--", "cat", "/root/file", "/etc/file")
    assert said.split() == [text, text]
