"""What a guest reaches and how it is reached: nothing without being asked for."""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.harness import Banger, eventually, free_port, installation

GREETING = b"hello from the host"
HTTP_SERVER = "systemd-run --quiet python3 -m http.server --directory /root/www"


class _Greeter(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(GREETING)


@pytest.fixture
def host_server() -> Iterator[int]:
    """A server on the host's loopback address, as the whole of the outside world; its port."""
    with socketserver.TCPServer(("127.0.0.1", 0), _Greeter) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def _reach(banger: Banger, vm: str, port: int) -> bytes:
    """What the guest reads from the gateway, which user-mode networking maps to our loopback."""
    script = (
        "gateway=$(ip -4 route show default | cut -d' ' -f3); "
        f"exec timeout 10 bash -c 'cat < /dev/tcp/'$gateway/{port}"
    )
    return banger.run("vm", "ssh", vm, "--", "sh", "-c", script).stdout


def _page(port: int) -> bytes | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/page")
        return connection.getresponse().read()

    return None


def test_without_nat_the_guest_reaches_nothing(shared: Banger, host_server: int) -> None:
    assert _reach(shared, "box", host_server) == b""


@pytest.fixture(scope="module")
def published(images: Path) -> Iterator[tuple[Banger, int]]:
    """A VM with egress that publishes the guest's port 8000."""
    port = free_port()
    with installation(images) as banger:
        banger.ok("vm", "create", "--name", "web", "--nat", "-p", f"{port}:8000")
        banger.sh("web", f"mkdir /root/www; echo page > /root/www/page; {HTTP_SERVER} 8000")
        yield banger, port


def test_a_published_port_reaches_the_guests_server(published: tuple[Banger, int]) -> None:
    _banger, port = published

    eventually(lambda: _page(port) == b"page\n", "the page arrives")


def test_nothing_but_the_ssh_and_published_ports_listens_on_the_host(
    published: tuple[Banger, int],
) -> None:
    banger, port = published
    listening = subprocess.run(
        ["ss", "-Hltnup"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    pid = banger.vm("web")["pid"]

    ours = {line.split()[4] for line in listening if f"pid={pid}," in line}

    assert ours == {f"127.0.0.1:{port}", f"127.0.0.1:{banger.vm('web')['ssh_port']}"}


def test_with_nat_the_guest_reaches_the_outside(
    published: tuple[Banger, int], host_server: int
) -> None:
    banger, _port = published

    assert _reach(banger, "web", host_server) == GREETING


def test_with_nat_the_resolver_is_the_networks(published: tuple[Banger, int]) -> None:
    banger, _port = published
    gateway = banger.sh("web", "ip -4 route show default").split()[2]

    resolver = gateway.rsplit(".", 1)[0] + ".3"
    assert f"nameserver {resolver}" in banger.sh("web", "cat /etc/resolv.conf")


def test_egress_is_taken_away_and_given_back_by_set(
    published: tuple[Banger, int], host_server: int
) -> None:
    banger, _port = published
    banger.ok("vm", "stop", "web")
    banger.ok("vm", "set", "web", "--no-nat")
    banger.ok("vm", "start", "web")
    assert _reach(banger, "web", host_server) == b""

    banger.ok("vm", "stop", "web")
    banger.ok("vm", "set", "web", "--nat")
    banger.ok("vm", "start", "web")
    assert _reach(banger, "web", host_server) == GREETING


def _ssh(banger: Banger, known_hosts: Path) -> subprocess.CompletedProcess[bytes]:
    """Plain ssh, told to believe nothing but `known_hosts`."""
    vm = banger.vm("box")
    options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=/dev/null",
        f"UserKnownHostsFile={known_hosts}",
        f"HostKeyAlias={vm['id']}",
        "IdentitiesOnly=yes",
    ]
    key = banger.state_dir / "ssh" / "id_ed25519"
    argv = ["ssh", "-F", "/dev/null", "-i", str(key), "-p", str(vm["ssh_port"])]
    for option in options:
        argv += ["-o", option]

    return subprocess.run([*argv, "root@127.0.0.1", "hostname"], capture_output=True)


def test_the_guests_host_key_is_known_before_the_first_connection(
    shared: Banger, tmp_path: Path
) -> None:
    known_hosts = shared.state_dir / "vms" / shared.vm("box")["id"] / "known_hosts"
    assert _ssh(shared, known_hosts).stdout == b"box\n"

    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    alias, kind, _key = known_hosts.read_text().split()[:3]
    impostor = tmp_path / "known_hosts"
    impostor.write_text(f"{alias} {kind} {key.with_suffix('.pub').read_text().split()[1]}\n")
    refused = _ssh(shared, impostor)
    assert refused.returncode == 255
    assert b"HOST IDENTIFICATION HAS CHANGED" in refused.stderr


def test_banger_refuses_a_guest_whose_host_key_changed(published: tuple[Banger, int]) -> None:
    banger, _port = published
    known_hosts = banger.state_dir / "vms" / banger.vm("web")["id"] / "known_hosts"
    genuine = known_hosts.read_text()
    banger.sh(
        "web",
        "mkdir -p /run/other; ssh-keygen -q -t ed25519 -N '' -f /run/other/key",
    )
    forged = banger.sh("web", "cat /run/other/key.pub").split()
    alias = genuine.split()[0]
    known_hosts.write_text(f"{alias} {forged[0]} {forged[1]}\n")
    try:
        refused = banger.run("vm", "ssh", "web", "--", "true")
        assert refused.status == 125
        assert "verification failed" in refused.complaint
    finally:
        known_hosts.write_text(genuine)


def test_only_the_owner_can_read_what_opens_a_vm(shared: Banger) -> None:
    vm = shared.vm("box")
    secrets = [
        shared.state_dir / "ssh" / "id_ed25519",
        shared.state_dir / "vms" / vm["id"] / "ssh_host_ed25519_key",
        shared.state_dir / "vms" / vm["id"] / "initrd",
    ]
    sockets = [path for path in shared.run_dir.rglob("*") if path.is_socket()]

    assert sockets
    for path in [shared.run_dir, shared.state_dir]:
        assert path.stat().st_mode & 0o777 == 0o700, path

    for path in secrets:
        assert path.stat().st_mode & 0o077 == 0, path

    assert shared.socket.stat().st_mode & 0o777 == 0o600
    for path in sockets:
        assert path.parent.stat().st_mode & 0o777 == 0o700, path


def test_no_secret_is_on_a_command_line(shared: Banger) -> None:
    private = (shared.state_dir / "ssh" / "id_ed25519").read_text().split("\n")[1]

    assert all(private not in line for _pid, line in shared.processes())
    assert shlex.quote(private) not in os.environ.values()
