"""Installing, removing and installing again; images that the installed service builds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from smoke.layers import without_templates
from smoke.mirror import mirror
from smoke.scenarios.vms import vm
from smoke.world import World

_NEW = ["sudo", "/opt/banger/bin/banger", "system"]
_INSTALL = [*_NEW, "install", "--owner", "dev"]
_DATA = "/var/lib/banger"
_KEPT = "/srv/kept"
# VMs and images, what can be made again, and the settings.
_KEPT_WITHOUT_PURGE = (_DATA, "/var/cache/banger", "/etc/banger")
# All that an installation brings or makes, wherever it is; not what it is installed from, and not
# what scenarios bring.
_TRACES = """
    find / -xdev \\( -path /opt -o -path /srv -o -path /proc -o -path /usr/local/lib/smoke \\) \
        -prune -o -iname '*banger*' -print
    find /run /dev/mapper /sys/fs/cgroup \\( -iname '*banger*' -o -name 'fc-rootfs-*' \\) -print
    systemctl list-unit-files --no-legend 'banger*' || true
    systemctl list-units --all --plain --no-legend 'banger*'
    nft list tables | grep banger || true
    ip -o link show | grep -E 'br-fc|tap-fc' || true
    losetup --list --noheadings
    dmsetup ls | grep -v 'No devices found' || true
    pgrep -a 'banger|firecracker|jailer' || true
    grep banger /etc/passwd /etc/group || true
    resolvectl domain | grep '~vm' || true
"""


def uninstalling_keeps_vms_and_purging_nothing(world: World) -> None:
    """Uninstalled, VMs are files and come back; purged, no trace; installed again, all works."""
    host = world.host
    with _image_kept(world):
        with vm(world, "x"):
            world.ok("vm", "exec", "x", "--", "sh", "-c", "echo kept >/root/file; sync")
            refused = host.run([*_NEW, "uninstall"], user="dev", check=False)
            assert (refused.status, "1 VM(s) run" in refused.complaint) == (1, True), refused
            assert world.ok("vm", "exec", "x", "--", "cat", "/root/file") == "kept"

            world.ok("vm", "stop", "x")
            host.run([*_NEW, "uninstall"], user="dev")
            left = host.sh(_TRACES).splitlines()
            more = [line for line in left if not line.startswith(_KEPT_WITHOUT_PURGE)]
            assert more == [], more
            assert host.sh(f"stat -c %U {_DATA}/state.db") == "dev"

            host.run(_INSTALL, user="dev", timeout=600)
            _is_well(world)
            assert world.json("vm", "show", "x")["state"] == "stopped"
            world.ok("vm", "start", "x", timeout=600)
            assert world.ok("vm", "exec", "x", "--", "cat", "/root/file") == "kept"

            host.run([*_NEW, "uninstall", "--stop-vms", "--purge"], user="dev", timeout=600)
            assert host.sh(_TRACES) == ""

        without_templates(host)
        host.run(_INSTALL, user="dev", timeout=600)
        _is_well(world)
        assert world.json("vm", "list") == []

    with vm(world, "y", "--", "hostname") as said:
        assert said == "y"


def a_missing_firecracker_is_said(world: World) -> None:
    """No Firecracker, or an old one: install changes nothing; install, start and doctor say it."""
    host = world.host
    before = host.sh("stat -c '%i %Y' /usr/local/lib/banger /etc/banger/install.toml")
    with _firecracker(world, "rm /usr/local/bin/firecracker"):
        _say_so(world, "firecracker is not installed in", "/usr/local/bin as root")

    with _firecracker(world, "printf '#!/bin/sh\\necho Firecracker v1.4.0\\n' >$0"):
        _say_so(world, "Firecracker 1.4.0 is not one that banger works with", "at least 1.12")

    assert host.sh("stat -c '%i %Y' /usr/local/lib/banger /etc/banger/install.toml") == before
    _is_well(world)


def first_run_builds_the_image(world: World) -> None:
    """On a host without an image the first run has the service build it, and is a VM of it."""
    host = world.host
    with _image_kept(world):
        host.sh(f"rm -r {_DATA}/images {_DATA}/kernels")
        with mirror(host), vm(world, "x", "--", "cat", "/etc/debian_version") as said:
            assert said.startswith("12")

        assert host.sh("find /var/cache/banger/builds -mindepth 1") == ""
        assert host.sh("systemctl list-units --failed --plain --no-legend 'banger*'") == ""
        host.sh(f"rm -r {_DATA}/images {_DATA}/kernels")


def _is_well(world: World) -> None:
    world.ok("system", "status")
    checks = {check["name"]: check for check in world.json("doctor")["checks"]}
    assert [name for name, check in checks.items() if check["status"] == "fail"] == [], checks
    assert checks["services"]["status"] == "pass", checks["services"]


def _say_so(world: World, message: str, hint: str) -> None:
    """What would need Firecracker ends with `message` and `hint`, each in one line."""
    attempts = (
        world.host.run(_INSTALL, user="dev", check=False),
        world.run("vm", "run", "--name", "z", "--", "true"),
    )
    for tried in attempts:
        assert tried.status != 0, tried
        assert message in tried.complaint, tried
        assert hint in tried.complaint, tried
        assert "Traceback" not in tried.complaint

    assert world.json("vm", "list") == []
    examined = world.run("doctor", "--json")
    assert examined.status != 0
    assert message in examined.text


@contextlib.contextmanager
def _firecracker(world: World, change: str) -> Iterator[None]:
    """For a while the host's Firecracker is what the shell command `change` makes of it, as $0."""
    program = "/usr/local/bin/firecracker"
    world.host.sh(f"cp -a {program} /srv/firecracker")
    try:
        world.host.run(["sh", "-ec", change, program])
        yield
    finally:
        world.host.sh(f"rm -f {program} && mv /srv/firecracker {program}")


@contextlib.contextmanager
def _image_kept(world: World) -> Iterator[None]:
    """The image, which takes long to build, is there again afterwards."""
    parts = f"{_DATA}/images {_DATA}/kernels"
    world.host.sh(f"mkdir {_KEPT} && cp -al {parts} {_KEPT}")
    try:
        yield
    finally:
        world.host.sh(f"cp -alf {_KEPT}/images {_KEPT}/kernels {_DATA} && rm -r {_KEPT}")
