"""The request `identity`: what a clone must not share with the guest it was made from."""

from __future__ import annotations

import posix as os
import sys
import time
from fcntl import ioctl

from banger.guest.agent.fields import field, hexadecimal, objects, path_field, required, strings
from banger.guest.agent.status import health
from banger.guest.agent.system import (
    S_IFMT,
    S_IFREG,
    SIGHUP,
    SIGTERM,
    describe,
    exists,
    quietly,
    read_text,
    rewrite_file,
    write_text,
)
from banger.guest.agent.wire import AgentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from banger.guest.agent.port import Port
    from banger.guest.agent.wire import Body

# linux/random.h, linux/sockios.h
RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207
SIOCADDRT, SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFHWADDR = 0x890B, 0x8916, 0x891C, 0x8924
DBUS_MACHINE_ID = "/var/lib/dbus/machine-id"
RESOLV_CONF = "/etc/resolv.conf"
JOURNALS = ("/run/log/journal", "/var/log/journal")
# As init does: a file is written when banger's setting is another than the last one it wrote, so
# that what the user has made of it since then stays.
APPLIED = "/var/lib/banger"
SSH_SOCKET = "/run/systemd/system/banger-ssh.socket"


def serve_identity(port: Port, request: Body) -> Body:
    """In this order, all of it before anybody else is served and before frozen processes go on."""
    steps: tuple[tuple[str, Callable[[Body], None]], ...] = (
        ("entropy", stir_entropy),
        ("clock", set_clock),
        ("hostname", set_hostname),
        ("machine_id", set_machine_id),
        ("dns", set_resolvers),
        ("files", write_files),
        ("networks", set_networks),
        ("ssh_host_key", set_ssh_host_key),
    )
    wanted = [(name, step) for name, step in steps if request.get(name) is not None]
    for name, step in wanted:
        take_step(name, step, request)

    if request.get("hostname") is not None:
        port.agent.kept.give_up()

    port.agent.freezer.thaw()
    return {**health(port), "done": [name for name, _ in wanted]}


def take_step(name: str, step: Callable[[Body], None], request: Body) -> None:
    try:
        step(request)
    except OSError as error:
        raise AgentError("identity_failed", f"{name}: {describe(error)}") from None


def stir_entropy(request: Body) -> None:
    """random(4): credited in full, and made what the kernel gives out from now on."""
    seed = hexadecimal(request, "entropy")
    if not 32 <= len(seed) <= 512:
        raise AgentError("bad_request", "entropy is not 32 to 512 bytes")

    counts = b"".join(count.to_bytes(4, sys.byteorder) for count in (8 * len(seed), len(seed)))
    fd = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
    try:
        ioctl(fd, RNDADDENTROPY, counts + seed)
        ioctl(fd, RNDRESEEDCRNG)
    finally:
        os.close(fd)


def set_clock(request: Body) -> None:
    time.clock_settime_ns(time.CLOCK_REALTIME, required(request, "clock", int))


def set_hostname(request: Body) -> None:
    name = required(request, "hostname", str)
    if not 0 < len(name) < 64 or not name.isascii() or not name.replace("-", "").isalnum():
        raise AgentError("bad_request", f"{name!r} is not a host name")

    if not has_changed("hostname", name):
        return

    write_text("/proc/sys/kernel/hostname", name)
    rewrite_file("/etc/hostname", name + "\n")
    try:
        lines = read_text("/etc/hosts").splitlines()
    except FileNotFoundError:
        lines = ["127.0.0.1 localhost"]

    lines = [line for line in lines if line.split()[:1] != ["127.0.1.1"]]
    rewrite_file("/etc/hosts", "\n".join([*lines, f"127.0.1.1 {name}", ""]))
    note_applied("hostname", name)


def has_changed(name: str, setting: str) -> bool:
    try:
        return read_text(f"{APPLIED}/{name}") != setting
    except FileNotFoundError:
        return True


def note_applied(name: str, setting: str) -> None:
    quietly(os.mkdir, APPLIED)
    rewrite_file(f"{APPLIED}/{name}", setting + "\n")


def set_machine_id(request: Body) -> None:
    text = hexadecimal(request, "machine_id").hex()
    if len(text) != 32:
        raise AgentError("bad_request", "machine_id is not 32 digits")

    if not has_changed("machine-id", text):
        return

    link_journals(read_text("/etc/machine-id"), text)
    rewrite_file("/etc/machine-id", text + "\n")
    # As a rule it is a link to the other.
    try:
        separate = os.lstat(DBUS_MACHINE_ID).st_mode & S_IFMT == S_IFREG
    except OSError:
        separate = False

    if separate:
        rewrite_file(DBUS_MACHINE_ID, text + "\n")

    note_applied("machine-id", text)


def link_journals(old: str, new: str) -> None:
    """journalctl(1) looks where the machine-id says; a running journald writes where it did."""
    for folder in JOURNALS:
        if exists(f"{folder}/{old}"):
            quietly(os.symlink, old, f"{folder}/{new}")


def set_resolvers(request: Body) -> None:
    servers = strings(request, "dns")
    setting = " ".join(["servers", *servers])
    if has_changed("dns", setting):
        rewrite_file(RESOLV_CONF, "".join(f"nameserver {server}\n" for server in servers))
        note_applied("dns", setting)


def write_files(request: Body) -> None:
    for file in objects(request, "files"):
        rewrite_file(path_field(file), required(file, "text", str), field(file, "mode", 0o644))


def set_ssh_host_key(request: Body) -> None:
    """Put the key where banger's sshd_config looks, and have it read.

    Where systemd holds the port sshd ends, and is started by the next connection; nobody is refused
    meanwhile.
    """
    keys = required(request, "ssh_host_key", dict)
    rewrite_file("/run/banger/ssh_host_ed25519_key", required(keys, "private", str), 0o600)
    rewrite_file("/run/banger/ssh_host_ed25519_key.pub", required(keys, "public", str))
    try:
        pid = int(read_text("/run/sshd.pid"))
        name = read_text(f"/proc/{pid}/comm")
    except (OSError, ValueError):
        return

    if name == "sshd":
        quietly(os.kill, pid, SIGTERM if exists(SSH_SOCKET) else SIGHUP)


def set_networks(request: Body) -> None:
    import _socket

    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        for network in objects(request, "networks"):
            set_network(control.fileno(), network, _socket.inet_aton)
    finally:
        control.close()


def set_network(control: int, network: Body, packed: Callable[[str], bytes]) -> None:
    """netdevice(7). With its only address an interface loses its routes."""
    interface = required(network, "interface", str)
    name = interface.encode()[:15].ljust(16, b"\0")
    prefix = required(network, "prefix", int)
    if not 0 < prefix <= 32:
        raise AgentError("bad_request", "prefix is not a number of bits")

    mask = (0xFFFFFFFF << (32 - prefix) & 0xFFFFFFFF).to_bytes(4, "big")
    address = inet_address(packed(required(network, "address", str)))
    ioctl(control, SIOCSIFADDR, name + address.ljust(24, b"\0"))
    ioctl(control, SIOCSIFNETMASK, name + inet_address(mask).ljust(24, b"\0"))
    mac = field(network, "mac", "")
    if mac:
        # It is announced: a guest that goes on elsewhere announces by itself what it was before.
        quietly(write_text, f"/proc/sys/net/ipv4/conf/{interface}/arp_notify", "1")
        # struct sockaddr, where 1 is ARPHRD_ETHER.
        hardware = (1).to_bytes(2, sys.byteorder) + bytes.fromhex(mac.replace(":", ""))
        ioctl(control, SIOCSIFHWADDR, name + hardware.ljust(24, b"\0"))
        quietly(renew_link_local, interface)

    gateway = field(network, "gateway", "")
    if gateway:
        try:
            add_default_route(control, packed(gateway))
        except FileExistsError:
            # An address that was there already has kept its routes.
            return


def renew_link_local(interface: str) -> None:
    """The kernel makes the address of IPv6 that every interface has out of the hardware address."""
    switch = f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"
    if read_text(switch) == "0":
        write_text(switch, "1")
        write_text(switch, "0")


def add_default_route(control: int, gateway: bytes) -> None:
    """struct rtentry of linux/route.h, whose flags are RTF_UP | RTF_GATEWAY."""
    anywhere = inet_address(bytes(4))
    flags = (3).to_bytes(2, sys.byteorder)
    route = bytes(8) + anywhere + inet_address(gateway) + anywhere + flags
    ioctl(control, SIOCADDRT, route.ljust(120, b"\0"))


def inet_address(packed: bytes) -> bytes:
    """struct sockaddr_in, where 2 is AF_INET."""
    return (2).to_bytes(2, sys.byteorder) + bytes(2) + packed + bytes(8)
