"""Bridges, taps and the packet filter, with real frames between network namespaces."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from banger.privileged.dispatch import perform
from banger.privileged.faults import Fault, FaultCode
from banger.privileged.ops import (
    ApplyPolicy,
    CreateTaps,
    DeleteTaps,
    Egress,
    EnsureBridge,
    Guest,
    ListOwned,
    Owned,
    RemoveBridge,
    RemovePolicy,
    Request,
)
from banger.privileged.site import Site

SITE = Site(owner_uid=1000, owner_gid=1000, roots=("/srv/state",), jails="/srv/jail")
BRIDGE = EnsureBridge(bridge="br-fc", address="172.16.0.1", prefix=24)


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def addresses(link: str) -> list[str]:
    (shown,) = json.loads(run("ip", "-j", "-4", "address", "show", "dev", link))
    return [f"{entry['local']}/{entry['prefixlen']}" for entry in shown["addr_info"]]


def refusal(request: Request[object]) -> FaultCode:
    try:
        perform(SITE, request)
    except Fault as fault:
        return fault.code

    raise AssertionError(f"was done: {request}")


def a_bridge_is_made_once_and_brought_to_its_address() -> None:
    perform(SITE, BRIDGE)
    perform(SITE, BRIDGE)
    assert addresses("br-fc") == ["172.16.0.1/24"]

    perform(SITE, EnsureBridge(bridge="br-fc", address="10.99.0.1", prefix=16))
    assert addresses("br-fc") == ["10.99.0.1/16"]
    mac = Path("/sys/class/net/br-fc/address").read_text()

    perform(SITE, CreateTaps(bridge="br-fc", taps=("tap-fc-0",)))
    assert Path("/sys/class/net/br-fc/address").read_text() == mac

    assert refusal(RemoveBridge(bridge="br-fc")) is FaultCode.BUSY
    perform(SITE, DeleteTaps(taps=("tap-fc-0",)))
    perform(SITE, RemoveBridge(bridge="br-fc"))
    perform(SITE, RemoveBridge(bridge="br-fc"))
    assert not Path("/sys/class/net/br-fc").exists()


def taps_are_the_owners_and_isolated() -> None:
    perform(SITE, BRIDGE)
    taps = tuple(f"tap-fc-{number}" for number in range(20))
    perform(SITE, CreateTaps(bridge="br-fc", taps=taps))
    perform(SITE, CreateTaps(bridge="br-fc", taps=taps[:3]))
    for tap in taps:
        place = Path("/sys/class/net") / tap
        assert (place / "owner").read_text().strip() == "1000"
        assert (place / "brport/isolated").read_text().strip() == "1"
        assert (place / "master").resolve().name == "br-fc"

    found = perform(SITE, ListOwned())
    assert found == Owned(bridges=("br-fc",), taps=tuple(sorted(taps)), snapshots=(), jails=())
    perform(SITE, DeleteTaps(taps=(*taps, "tap-fc-gone")))
    assert perform(SITE, ListOwned()) == Owned(bridges=("br-fc",), taps=(), snapshots=(), jails=())


def what_others_made_is_left_alone() -> None:
    run("ip", "link", "add", "br-fc", "type", "bridge")
    run("ip", "link", "add", "br-fc-x", "type", "veth", "peer", "name", "peer1")
    run("ip", "link", "set", "br-fc-x", "alias", "banger")
    run("ip", "tuntap", "add", "dev", "tap-fc-1", "mode", "tap", "user", "1000")
    run("ip", "tuntap", "add", "dev", "tap-fc-2", "mode", "tap", "user", "1001")
    run("ip", "link", "set", "tap-fc-2", "alias", "banger")
    run("ip", "link", "add", "tap-fc-3", "type", "veth", "peer", "name", "peer2")
    run("ip", "link", "set", "tap-fc-3", "alias", "banger")
    before = run("ip", "link")

    for bridge in ("br-fc", "br-fc-x"):
        ensure = EnsureBridge(bridge=bridge, address="172.16.0.1", prefix=24)
        assert refusal(ensure) is FaultCode.REFUSED
        assert refusal(RemoveBridge(bridge=bridge)) is FaultCode.REFUSED
        assert refusal(CreateTaps(bridge=bridge, taps=("tap-fc-9",))) is FaultCode.REFUSED

    perform(SITE, EnsureBridge(bridge="br-fc-y", address="172.16.0.1", prefix=24))
    run("ip", "link", "delete", "br-fc-y")
    for number in (1, 2, 3):
        assert refusal(DeleteTaps(taps=(f"tap-fc-{number}",))) is FaultCode.REFUSED

    assert run("ip", "link") == before


def taps_are_made_all_or_none() -> None:
    perform(SITE, BRIDGE)
    run("ip", "link", "add", "other", "type", "veth", "peer", "name", "peer")
    # A second name of another interface is in the way, and no directory in sysfs shows it.
    run("ip", "link", "property", "add", "dev", "other", "altname", "tap-fc-5")
    before = run("ip", "link")
    taps = tuple(f"tap-fc-{number}" for number in range(9))
    assert refusal(CreateTaps(bridge="br-fc", taps=taps)) is FaultCode.FAILED
    assert run("ip", "link") == before


class Net:
    """A host, two guests on its bridge and a server beyond, each a network namespace.

    Guests hang on veth pairs named like taps, for a real tap has nobody at its other end here.
    """

    def __init__(self) -> None:
        perform(SITE, BRIDGE)
        for number in (1, 2):
            self._join(f"g{number}", f"tap-fc-{number}", f"172.16.0.1{number}/24", "172.16.0.1")
            run("ip", "link", "set", f"tap-fc-{number}", "master", "br-fc")
            run("ip", "-n", f"g{number}", "link", "set", "eth0", "address", self.mac(number))
            run("ip", "-n", f"g{number}", "route", "replace", "default", "via", "172.16.0.1")

        self._join("server", "uplink", "192.0.2.2/24", "192.0.2.1")
        run("ip", "address", "add", "192.0.2.1/24", "dev", "uplink")
        run("ip", "-n", "server", "address", "add", "198.51.100.7/32", "dev", "lo")
        run("ip", "-n", "server", "address", "add", "169.254.169.254/32", "dev", "lo")
        run("ip", "route", "add", "198.51.100.7/32", "via", "192.0.2.2")
        run("ip", "route", "add", "169.254.169.254/32", "via", "192.0.2.2")

    @staticmethod
    def mac(number: int) -> str:
        return f"02:fc:00:00:00:0{number}"

    def _join(self, name: str, link: str, address: str, gateway: str) -> None:
        run("ip", "netns", "add", name)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", link, "up")
        run("ip", "-n", name, "address", "add", address, "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", name, "link", "set", device, "up")

    def guest(self, number: int, egress: Egress = Egress.NONE, *allow: str) -> Guest:
        return Guest(
            tap=f"tap-fc-{number}",
            mac=self.mac(number),
            address=f"172.16.0.1{number}",
            egress=egress,
            allow=allow,
        )

    def apply(self, *guests: Guest) -> None:
        perform(SITE, ApplyPolicy(bridge="br-fc", address="172.16.0.1", prefix=24, guests=guests))

    def reaches(self, who: str, address: str) -> bool:
        """Whether an answer comes, however slow this machine is just now."""
        return self._answered(who, address, seconds=30)

    def is_cut_off(self, who: str, address: str, source: str | None = None) -> bool:
        """Whether none comes for a while."""
        return not self._answered(who, address, *([] if source is None else ["-I", source]))

    def _answered(self, who: str, address: str, *options: str, seconds: int = 1) -> bool:
        ping = ["ip", "netns", "exec", who, "ping", "-n", "-c1", f"-W{seconds}", *options, address]
        return subprocess.run(ping, capture_output=True).returncode == 0


def guests_reach_what_their_egress_says() -> None:
    run("mount", "-t", "tmpfs", "none", "/run")
    net = Net()
    net.apply(net.guest(1, Egress.NAT), net.guest(2))
    assert net.reaches("g1", "192.0.2.2")
    assert net.reaches("g1", "198.51.100.7")
    assert net.is_cut_off("g1", "169.254.169.254"), "cloud metadata"
    assert net.is_cut_off("g1", "172.16.0.12"), "its neighbour"
    assert net.is_cut_off("g1", "172.16.0.1"), "the host, unasked"
    assert net.is_cut_off("g2", "192.0.2.2")
    assert (
        subprocess.run(["ping", "-c1", "-W30", "172.16.0.12"], capture_output=True).returncode == 0
    )
    assert net.is_cut_off("server", "172.16.0.11"), "from outside"

    net.apply(net.guest(1, Egress.ALLOW, "198.51.100.0/24", "198.51.100.7/32"), net.guest(2))
    assert net.reaches("g1", "198.51.100.7")
    assert net.is_cut_off("g1", "192.0.2.2")

    net.apply(net.guest(1, Egress.ALLOW, "0.0.0.0/0"), net.guest(2, Egress.NAT))
    assert net.reaches("g1", "192.0.2.2")
    assert net.is_cut_off("g1", "172.16.0.1"), "everything does not mean the host"
    assert net.is_cut_off("g1", "169.254.169.254")
    assert net.reaches("g2", "192.0.2.2")

    net.apply(net.guest(1, Egress.ALLOW, "172.16.0.1/32", "198.51.100.0/24"), net.guest(2))
    assert net.reaches("g1", "172.16.0.1"), "named"
    assert net.is_cut_off("g1", "192.0.2.1"), "another of the host's"

    net.apply(net.guest(1))
    assert net.is_cut_off("g1", "192.0.2.2")
    assert net.is_cut_off("g2", "192.0.2.2"), "nobody's port"


def a_guest_speaks_only_for_itself() -> None:
    run("mount", "-t", "tmpfs", "none", "/run")
    net = Net()
    net.apply(net.guest(1), net.guest(2, Egress.NAT))
    run("ip", "-n", "g1", "address", "add", "172.16.0.12/24", "dev", "eth0")
    assert net.is_cut_off("g1", "192.0.2.2", source="172.16.0.12"), "its neighbour's address"

    run("ip", "-n", "g2", "link", "set", "eth0", "address", "02:fc:00:00:00:99")
    assert net.is_cut_off("g2", "192.0.2.2"), "another MAC"


def a_policy_replaces_the_one_before_at_once() -> None:
    perform(SITE, BRIDGE)
    run("nft", "add table inet other")
    guests = tuple(
        Guest(
            tap=f"tap-fc-{number}",
            mac=f"02:fc:00:00:{number // 256:02x}:{number % 256:02x}",
            address=f"172.16.{number // 256 + 1}.{number % 256}",
            egress=Egress.NAT,
        )
        for number in range(1000)
    )
    policy = ApplyPolicy(bridge="br-fc", address="172.16.0.1", prefix=16, guests=guests)
    for _ in range(3):
        perform(SITE, policy)

    began = run("nft", "list", "ruleset")
    assert began.count("tap-fc-999") == 1
    assert (
        refusal(ApplyPolicy(bridge="br-fc", address="172.16.0.1", prefix=16, guests=guests[:1] * 2))
        is FaultCode.REFUSED
    )
    assert run("nft", "list", "ruleset") == began

    perform(SITE, RemovePolicy())
    perform(SITE, RemovePolicy())
    assert run("nft", "list", "tables").split() == ["table", "inet", "other"]


def dockers_rules_are_joined_and_left() -> None:
    perform(SITE, BRIDGE)
    for line in (
        "add table ip filter",
        "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
        "add chain ip filter DOCKER-USER",
        "add rule ip filter FORWARD jump DOCKER-USER",
    ):
        run("nft", line)

    before = run("nft", "list", "table", "ip", "filter")
    policy = ApplyPolicy(bridge="br-fc", address="172.16.0.1", prefix=24)
    perform(SITE, policy)
    perform(SITE, policy)
    assert run("nft", "list", "chain", "ip", "filter", "DOCKER-USER").count('"banger"') == 2

    perform(SITE, RemovePolicy())
    assert run("nft", "list", "table", "ip", "filter") == before


def a_dropping_forward_chain_does_not_stop_guests() -> None:
    run("mount", "-t", "tmpfs", "none", "/run")
    net = Net()
    run("nft", "add table ip filter")
    run("nft", "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
    net.apply(net.guest(1, Egress.NAT), net.guest(2))
    assert net.reaches("g1", "192.0.2.2")
    assert net.is_cut_off("g2", "192.0.2.2")


def a_slow_program_is_given_up() -> None:
    class Slow(EnsureBridge):
        __slots__ = ()
        limit = 1

    from banger.privileged import dispatch

    dispatch._DOING[Slow] = lambda *_: time.sleep(60)
    assert refusal(Slow(bridge="br-fc", address="172.16.0.1", prefix=24)) is FaultCode.TIMEOUT
