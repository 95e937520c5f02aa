"""Guests that mean harm, and very many of them."""

from __future__ import annotations

import time

from tests.e2e.harness import eventually

from smoke.scenarios.snapshots import templates, until
from smoke.scenarios.vms import vm
from smoke.world import World

_CYCLES = 200
# Each tenth boots; the others go on from a template's memory.
_COLD_EVERY = 10
_FLOOD_SECONDS = 20
_DNS = """
import os, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end = time.time() + float(sys.argv[2])
while time.time() < end:
    try: s.sendto(os.urandom(40), (sys.argv[1], 42069)); s.sendto(os.urandom(40), (sys.argv[1], 53))
    except OSError: pass
"""
_VSOCK = """
import socket, sys, time
end = time.time() + float(sys.argv[1])
kept = []
while time.time() < end:
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.setblocking(False)
    try: s.connect((2, 1024 + len(kept) % 64))
    except OSError: pass
    kept.append(s)
    if len(kept) > 200: kept.clear()
"""
_SERIAL = "timeout $0 sh -c 'yes flood >/dev/ttyS0'; true"


def floods_hurt_nobody(world: World) -> None:
    """A guest floods DNS, vsock and its serial port; daemon, helper and neighbour go on serving."""
    host = world.host
    units = ("bangerd", "bangerd-root")
    with vm(world, "bad"), vm(world, "good"):
        pids = [world.unit_pid(unit) for unit in units]
        bridge = world.bridge_address()
        address = world.json("vm", "show", "good")["address"]
        seconds = str(_FLOOD_SECONDS)
        floods = (
            ["python3", "-c", _DNS, bridge, seconds],
            ["python3", "-c", _VSOCK, seconds],
            ["sh", "-c", _SERIAL, seconds],
        )
        for flood in floods:
            world.ok("vm", "exec", "bad", "-d", "--", *flood)
            began = time.monotonic()
            while time.monotonic() - began < _FLOOD_SECONDS / 2:
                assert host.sh(f"dig @{bridge} -p 42069 +short +tries=5 good.vm") == address
                assert world.ok("vm", "exec", "good", "--", "echo", "here") == "here"

            eventually(lambda: not _floods(world), "the flood is over", 300)

        assert [world.unit_pid(unit) for unit in units] == pids
        logs = "find /var/lib/banger/vms /run/banger -name '*log*' -size +20M"
        assert host.sh(logs) == ""


def two_hundred_cycles(world: World) -> None:
    """200 times a VM is created, used and deleted: the census is the same, the daemon no larger."""
    sizes = []
    with templates(world):
        for number in range(_CYCLES):
            boots = number % _COLD_EVERY == _COLD_EVERY - 1
            with vm(world, f"n{number}", *(["--cold"] * boots), "--", "hostname") as said:
                assert said == f"n{number}"
                until(lambda: world.json("template", "list"), "a template", 1800)

            rss = world.host.sh(f"ps -o rss= -p {world.unit_pid('bangerd')}")
            sizes.append(int(rss))

    # What is loaded and cached on first use is there after the first ten.
    assert sizes[-1] < sizes[10] * 1.2, sizes[::10]


def _floods(world: World) -> bool:
    # The brackets keep the pattern from finding itself.
    some = "pgrep -f 'os.[u]random|AF_[V]SOCK' || pgrep -x yes"
    return world.run("vm", "exec", "bad", "--", "sh", "-c", some).status == 0
