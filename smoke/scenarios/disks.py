"""Root disks on device-mapper, and the room they need."""

from __future__ import annotations

from tests.e2e.harness import eventually

from banger.api.sizes import MIB
from banger.daemon.headroom import NEARLY_FULL
from banger.host.resources import Room
from smoke.scenarios.vms import vm
from smoke.world import World

_PLACE = "/var/lib/banger/smoke"
_NAME = "fc-rootfs-smoke"


def root_disk_on_device_mapper(world: World) -> None:
    """A snapshot over loop devices takes writes, leaves its base alone, is checked and removed."""
    host = world.host
    host.sh(
        f"""
        mkdir {_PLACE} && cd {_PLACE}
        truncate -s 64M base && /sbin/mke2fs -q -t ext4 base && truncate -s 64M cow
        sha256sum base >sum
        """,
        user="dev",
    )
    snapshot = {"name": _NAME, "base": f"{_PLACE}/base", "cow": f"{_PLACE}/cow"}
    try:
        made = world.ask("create_snapshot", **snapshot, size=2**27)
        assert host.sh(f"blockdev --getsize64 {made['path']}") == str(2**27)
        assert _NAME in world.ask("list_owned")["snapshots"]

        host.sh(f"mount {made['path']} /mnt && echo kept >/mnt/file && umount /mnt")
        host.sh(f"cd {_PLACE} && sha256sum --check --quiet sum", user="dev")
        world.ask("remove_snapshot", name=_NAME)

        world.ask("create_snapshot", **snapshot, size=2**27)
        assert host.sh(f"mount {made['path']} /mnt && cat /mnt/file && umount /mnt") == "kept"
        world.ask("check_snapshot", name=_NAME)
    finally:
        world.ask("remove_snapshot", name=_NAME)
        host.sh(f"rm -r {_PLACE}", user="dev")

    assert host.sh("losetup --list --noheadings; dmsetup ls") == "No devices found"


_WRITE = "dd if=/dev/urandom of=/var/big bs=1M count=256 && sync && sha256sum /var/big >/root/sum"
_COMPARE = "test -s /root/sum && echo 3 >/proc/sys/vm/drop_caches && sha256sum -c /root/sum"


def full_disk_loses_nothing(world: World) -> None:
    """Guests stand still before the host's disk is full, and go on, whole, when it is not."""
    host = world.host
    with vm(world, "x"):
        room = _room(world)
        rest = room.free - room.reserve - 64 * MIB
        host.sh(f"fallocate -l {rest} /var/lib/banger/filler", user="dev")
        try:
            world.ok("vm", "exec", "x", "-d", "--", "sh", "-c", _WRITE)
            eventually(lambda: _state(world) == ("paused", NEARLY_FULL), "it stands still", 300)
            refused = world.run("vm", "run", "--name", "y")
            assert refused.status == 125, refused
            assert "disk space needed" in refused.complaint
            assert _room(world).free > 0
        finally:
            host.sh("rm /var/lib/banger/filler", user="dev")

        eventually(lambda: _state(world) == ("running", None), "it goes on", 120)
        eventually(
            lambda: world.run("vm", "exec", "x", "--", "sh", "-c", _COMPARE).status == 0,
            "what it wrote is there",
            300,
        )
        assert "Invalid" not in host.sh("dmsetup status")


def _room(world: World) -> Room:
    words = world.host.sh("df -B1 --output=size,avail /var/lib/banger | tail -1").split()
    return Room(*map(int, words))


def _state(world: World) -> tuple[str, str | None]:
    found = world.json("vm", "show", "x")
    return found["state"], found.get("reason")
