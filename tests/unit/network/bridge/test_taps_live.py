"""Real taps from the supply, on a real bridge, used and found again; and the names beside them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from tests.unit.network.bridge.net import LAN, SITE
from tests.unit.network.bridge.netns import World, possible

from banger.network.bridge.routes import parse_routes, settle
from banger.network.bridge.supply import TapSupply, find_taps
from banger.network.bridge.taps import TapPool
from banger.privileged import bridge, ops
from banger.privileged.gates import links

pytestmark = pytest.mark.skipif(
    not possible() or not Path("/dev/net/tun").exists(), reason="needs root and /dev/net/tun"
)

# linux/if_tun.h
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


class Helper:
    """The helper's operations, in a world of their own."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def create(self, names: tuple[str, ...]) -> None:
        request = ops.CreateTaps(bridge="br-fc", taps=names)
        await asyncio.to_thread(self._world.do, bridge.create_taps, SITE, request)

    async def delete(self, names: tuple[str, ...]) -> None:
        request = ops.DeleteTaps(taps=names)
        await asyncio.to_thread(self._world.do, bridge.delete_taps, SITE, request)


@pytest.fixture
def world() -> Iterator[World]:
    with World("host") as host:
        request = ops.EnsureBridge(bridge="br-fc", address=str(LAN.gateway), prefix=16)
        host.do(bridge.ensure_bridge, SITE, request)
        yield host


async def test_taps_are_made_used_removed_and_found_again(world: World) -> None:
    supply = TapSupply(Helper(world), TapPool(4))
    supply.start((), {})
    held, used, _ = [await supply.acquire(name) for name in ("held", "used", "unused")]
    world.do(speak, used)
    await until(lambda: len(taps(world)) == 7)
    await supply.close()

    # The daemon has forgotten everything but that `held` belongs to a VM.
    found = world.do(find_taps, taps(world), "br-fc")
    assert [each.name for each in found if not each.pristine] == [used]
    again = TapSupply(Helper(world), TapPool(4))
    again.start(found, {held: "vm"})
    assert await again.acquire("vm") == held
    await again.release(held)
    await until(lambda: used not in taps(world))
    await until(lambda: len(taps(world)) == 4)
    await again.close()
    assert held not in taps(world)


async def test_a_tap_that_is_open_is_not_taken_for_idle(world: World) -> None:
    await Helper(world).create(("tap-fc-1",))
    opened = world.do(open_tap, "tap-fc-1")
    assert [each.pristine for each in world.do(find_taps, ["tap-fc-1"], "br-fc")] == [False]
    os.close(opened)
    assert [each.pristine for each in world.do(find_taps, ["tap-fc-1"], "br-fc")] == [True]


def test_the_bridges_own_network_is_no_collision_at_the_next_start(world: World) -> None:
    routes = parse_routes(world.sh("ip -4 -json route show table all").encode())

    assert any(route.device == "br-fc" for route in routes)
    assert settle(LAN.subnet, LAN.subnet, routes, "br-fc").subnet == LAN.subnet
    assert settle(LAN.subnet, None, routes, "another").subnet != LAN.subnet


async def test_a_resolver_that_asks_through_the_link_finds_the_server_on_the_bridge(
    world: World,
) -> None:
    """systemd-resolved sets IP_UNICAST_IF to the link whose server it asks."""
    await Helper(world).create(("tap-fc-1",))

    def asked(address: IPv4Address) -> bool:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver,
        ):
            server.bind((str(address), 42069))
            server.settimeout(0.3)
            index = socket.if_nametoindex("br-fc")
            resolver.setsockopt(socket.IPPROTO_IP, 50, struct.pack("!I", index))
            try:
                resolver.sendto(b"question", (str(address), 42069))
                return server.recv(64) == b"question"
            except OSError:
                return False

    opened = world.do(open_tap, "tap-fc-1")
    assert world.do(asked, LAN.gateway)
    assert not world.do(asked, IPv4Address("127.0.0.1"))
    os.close(opened)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the kernel is asked, it does not tell
        await asyncio.sleep(0.01)


def taps(world: World) -> list[str]:
    return list(world.do(links.marked, "tun_flags"))


def open_tap(name: str) -> int:
    """What a VMM does with its tap."""
    opened = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(opened, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return opened


def speak(name: str) -> None:
    opened = open_tap(name)
    os.write(opened, b"\xff" * 6 + b"\x06\xfc\0\0\0\1" + b"\x08\x06" + bytes(28))
    os.close(opened)
