"""VMs of the owner's on the installed host: real Firecracker, jailer, bridge, names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from smoke.world import World

_OUTSIDE = "198.51.100.2"
# The host's other side: a namespace with a server, reached over a link of its own.
_MAKE_OUTSIDE = f"""
    ip netns add outside
    ip link add to-outside type veth peer name eth0 netns outside
    ip addr add 198.51.100.1/24 dev to-outside && ip link set to-outside up
    ip -n outside addr add {_OUTSIDE}/24 dev eth0 && ip -n outside link set eth0 up
    systemd-run --quiet --collect --unit smoke-outside ip netns exec outside \
        python3 -m http.server 80 --directory /usr/local/lib/smoke
    until curl -s --max-time 2 http://{_OUTSIDE}/ >/dev/null; do sleep 0.2; done
"""
# ip-netns(8) leaves a mount of its own behind.
_REMOVE_OUTSIDE = "systemctl stop smoke-outside; ip netns del outside; umount /run/netns"


def run_exec_ssh(world: World) -> None:
    """The owner, not root, runs a VM under Firecracker and its jailer; exec and ssh answer."""
    with vm(world, "x", "--", "uname", "-a") as said:
        assert "Linux x " in said
        assert world.ok("vm", "exec", "x", "--", "sh", "-c", "id -u; exit 0") == "0"
        assert world.run("vm", "exec", "x", "--", "sh", "-c", "exit 42").status == 42
        assert world.ok("vm", "ssh", "x", "--", "hostname") == "x"
        jailed = world.host.sh("ps -o user= -p $(pidof firecracker)")
        assert jailed == "dev"
        bound = world.host.sh("prlimit --fsize --noheadings -o SOFT --pid $(pidof firecracker)")
        spec = world.json("vm", "show", "x")["spec"]
        assert int(bound) == max(spec["disk_size"], spec["memory"] + (128 << 20)), bound
        assert len(world.ask("list_owned")["snapshots"]) == 1


def stop_and_start_keep_the_disks(world: World) -> None:
    """What a guest wrote is there after stop and start, in another boot."""
    with vm(world, "x"):
        write = "echo kept | tee /root/work >/etc/root && cat /proc/sys/kernel/random/boot_id"
        first = world.ok("vm", "exec", "x", "--", "sh", "-c", write)
        world.ok("vm", "stop", "x")
        assert world.host.run(["pidof", "firecracker"], check=False).status == 1
        assert world.ask("list_owned")["snapshots"] == []

        world.ok("vm", "start", "x")
        read = "cat /root/work /etc/root /proc/sys/kernel/random/boot_id"
        *kept, second = world.ok("vm", "exec", "x", "--", "sh", "-c", read).split()
        assert kept == ["kept", "kept"]
        assert second != first


def dns_name(world: World) -> None:
    """x.vm is the guest's address, forwards and backwards, for as long as the VM runs."""
    host = world.host
    with vm(world, "x"):
        address = world.json("vm", "show", "x")["address"]
        assert f" {address} " in f"{host.sh('resolvectl query --legend=no x.vm')} "
        assert address in host.sh("getent ahostsv4 x.vm", user="dev")
        assert "x.vm" in host.sh(f"resolvectl query --legend=no {address}")
        bridge = world.bridge_address()
        for options in ("", "+tcp", "+noedns", "+bufsize=1232"):
            dig = f"dig @{bridge} -p 42069 +short +tries=3 {options}"
            assert host.sh(f"{dig} X.vM A") == address
            assert host.sh(f"{dig} x.vm AAAA") == ""

        assert "status: NXDOMAIN" in host.sh(f"dig @{bridge} -p 42069 nobody.vm")
        assert host.run(["ping", "-c", "1", "-W", "10", "x.vm"], user="dev").status == 0

    assert host.run(["resolvectl", "query", "x.vm"], check=False).status != 0


def nat_only_when_asked(world: World) -> None:
    """A server beyond the host is reached with --nat, and not without it."""
    reach = ("curl", "-s", "--max-time", "10", "-o", "/dev/null", f"http://{_OUTSIDE}/")
    with outside(world), vm(world, "in"), vm(world, "out", "--nat"):
        assert world.run("vm", "exec", "out", "--", *reach).status == 0
        tried = world.run("vm", "exec", "in", "--", *reach)
        # curl(1): could not connect, or not in time.
        assert tried.status in (7, 28), tried


def neighbours_cannot_talk(world: World) -> None:
    """Guests reach neither each other nor the host's own services; the host reaches them."""
    with vm(world, "a"), vm(world, "b"):
        address = world.json("vm", "show", "b")["address"]
        gateway = world.bridge_address()
        knock = "import socket,sys; socket.create_connection((sys.argv[1], 22), 8)"
        for target in (address, gateway):
            tried = world.run("vm", "exec", "a", "--", "python3", "-c", knock, target)
            assert tried.status == 1, tried

        world.host.run(["python3", "-c", knock, address], user="dev")


def daemon_restart_keeps_vms(world: World) -> None:
    """The daemon is restarted, and killed: same boot of the guest, an ssh session unbroken."""
    with vm(world, "x"):
        _keeps_running(world, "systemctl restart bangerd")
        _keeps_running(world, "kill -9 $(systemctl show -p MainPID --value bangerd)")


def helper_restart_keeps_vms(world: World) -> None:
    """The root helper is restarted, and killed: same boot of the guest, an ssh session unbroken."""
    with vm(world, "x"):
        _keeps_running(world, "systemctl restart bangerd-root")
        _keeps_running(world, "kill -9 $(systemctl show -p MainPID --value bangerd-root)")


def delete_leaves_nothing(world: World) -> None:
    """A VMM killed hard is a stopped VM; deleted, nothing of it is left anywhere on the host."""
    with vm(world, "x"):
        world.host.sh("kill -9 $(pidof firecracker)")
        world.ok("vm", "wait", "x", "--for", "stopped")
        world.ok("vm", "start", "x")
        assert world.ok("vm", "exec", "x", "--", "echo", "again") == "again"

    owned = world.ask("list_owned")
    assert owned["snapshots"] == []
    assert owned["jails"] == []


def host_reboot(world: World) -> None:
    """After a reboot of the host a VM with --autostart runs; the other is stopped, and whole."""
    with vm(world, "auto", "--autostart"), vm(world, "plain"):
        world.ok("vm", "exec", "plain", "--", "sh", "-c", "echo kept >/root/file; sync")
        world.host.reboot()
        world.ok("vm", "wait", "auto", "--for", "ready", timeout=600)
        assert world.ok("vm", "exec", "auto", "--", "hostname") == "auto"
        assert world.json("vm", "show", "plain")["state"] == "stopped"

        world.ok("vm", "start", "plain")
        assert world.ok("vm", "exec", "plain", "--", "cat", "/root/file") == "kept"


@contextlib.contextmanager
def vm(world: World, name: str, *words: str) -> Iterator[str]:
    """A VM of that name for a while: `words` are options, or -- and a command."""
    command = () if "--" in words else ("--", "true")
    try:
        yield world.ok("vm", "run", "--name", name, "--vcpu", "1", *words, *command, timeout=600)
    finally:
        world.run("vm", "delete", name)


@contextlib.contextmanager
def outside(world: World) -> Iterator[None]:
    """A server at 198.51.100.2 that knows no way back to the guests' network."""
    world.host.sh(_MAKE_OUTSIDE)
    try:
        yield
    finally:
        world.host.sh(_REMOVE_OUTSIDE)


def _keeps_running(world: World, fault: str) -> None:
    boot_id = ("cat", "/proc/sys/kernel/random/boot_id")
    before = world.ok("vm", "exec", "x", "--", *boot_id)
    session = world.host.start_command(["banger", "vm", "ssh", "x", "--", "cat"], user="dev")
    assert session.stdin is not None
    assert session.stdout is not None
    session.stdin.write(b"before\n")
    session.stdin.flush()
    assert session.stdout.readline() == b"before\n"

    world.host.sh(fault)
    world.serves()
    assert world.ok("vm", "exec", "x", "--", *boot_id) == before

    out, _ = session.communicate(b"after\n", timeout=60)
    assert out == b"after\n"
    assert session.returncode == 0
