"""Guests' ports on the host: who reaches them, and for how long."""

from __future__ import annotations

from smoke.scenarios.vms import outside, vm
from smoke.world import World

_PORT = "8080"
_SERVE = ("sh", "-c", "cd /etc && setsid python3 -m http.server 80 >/dev/null 2>&1 </dev/null &")
_GET = ["curl", "-s", "--max-time", "10", "--retry", "8", "--retry-connrefused"]


def published_port_leads_to_the_guest(world: World) -> None:
    """With -p the owner reaches a guest at 127.0.0.1, and others where it is published for them."""
    host = world.host
    outer = ("-p", f"198.51.100.1:{_PORT}:80")
    with outside(world), vm(world, "x", "-p", f"{_PORT}:80", *outer), vm(world, "b", "--nat"):
        world.ok("vm", "exec", "x", "--", *_SERVE)
        _reached(world, "127.0.0.1")
        _reached(world, "198.51.100.1")
        from_outside = ["ip", "netns", "exec", "outside", *_GET]
        assert host.run([*from_outside, f"http://198.51.100.1:{_PORT}/hostname"]).text == "x"
        neighbour = ("curl", "-s", "--max-time", "5", f"http://198.51.100.1:{_PORT}/hostname")
        assert world.run("vm", "exec", "b", "--", *neighbour).status != 0
        listed = {port["port"]: port for port in world.json("vm", "ports", "x")}
        assert listed[80]["endpoint"] == f"127.0.0.1:{_PORT}"

        taken = world.run("vm", "create", "--name", "c", "-p", f"{_PORT}:80")
        assert "port_taken" in taken.complaint or "in use" in taken.complaint, taken
        assert host.run(["python3", "-m", "http.server", _PORT], check=False).status != 0

        host.sh("systemctl restart bangerd")
        world.serves()
        _reached(world, "127.0.0.1")
        world.ok("vm", "stop", "x")
        gone = host.run(["curl", "-s", f"http://127.0.0.1:{_PORT}/"], check=False)
        assert gone.status == 7, gone
        assert host.sh("cat /proc/sys/net/ipv4/conf/br-fc/route_localnet") == "0"


def listening_host_port_is_not_taken(world: World) -> None:
    """A port that somebody listens on is refused in one line, before anything is made."""
    server = f"--unit smoke-taken python3 -m http.server --bind 127.0.0.1 {_PORT}"
    world.host.sh(f"systemd-run --quiet --collect {server}")
    world.host.sh(f"until curl -s http://127.0.0.1:{_PORT}/ >/dev/null; do sleep 0.2; done")
    try:
        refused = world.run("vm", "run", "-p", f"{_PORT}:80", "--", "true")
        assert refused.status != 0
        assert f"127.0.0.1:{_PORT}/tcp: it is in use" in refused.complaint, refused
        low = world.run("vm", "run", "-p", "80:80", "--", "true")
        assert "only root may listen there" in low.complaint, low
        assert world.json("vm", "list") == []
    finally:
        world.host.sh("systemctl stop smoke-taken")


def _reached(world: World, address: str) -> None:
    found = world.host.run([*_GET, f"http://{address}:{_PORT}/hostname"], user="dev")
    assert found.text == "x", found
