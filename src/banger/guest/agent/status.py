"""What the guest is doing: the requests `health`, `stats` and `ports`."""

from __future__ import annotations

import posix as os
import sys
import time

from banger.guest.agent.fields import field
from banger.guest.agent.process import Process
from banger.guest.agent.programs import PATH
from banger.guest.agent.system import pids, read_text
from banger.guest.agent.waiting import Waiting
from banger.guest.agent.wire import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from banger.guest.agent.port import Port
    from banger.guest.agent.wire import Body


def serve_health(port: Port, request: Body) -> Body | None:
    body = health(port)
    if field(request, "other_than", "") == body["boot_id"]:
        port.stream = Waiting()
        return None

    if not field(request, "system", False):
        return body

    port.stream = Process(port, lambda: {**body, "system": system_state()}, worker=True)
    return None


def health(port: Port) -> Body:
    return {
        "version": VERSION,
        "boot_id": read_text("/proc/sys/kernel/random/boot_id"),
        "uptime": time.clock_gettime(time.CLOCK_BOOTTIME),
        "clock": time.time_ns(),
        "hostname": os.uname().nodename,
        "frozen": port.agent.freezer.frozen(),
    }


def system_state() -> str:
    """What `systemctl is-system-running` says; "unknown" where there is no systemd."""
    reader, writer = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
    argv = ["systemctl", "is-system-running"]
    try:
        os.posix_spawn("/usr/bin/systemctl", argv, {"PATH": PATH}, file_actions=actions)
    except FileNotFoundError:
        return "unknown"

    os.close(writer)
    return os.read(reader, 64).decode().strip() or "unknown"


def serve_stats(port: Port, request: Body) -> Body:
    """Sizes in bytes, times in seconds."""
    memory = dict(memory_lines())
    words = read_text("/proc/stat").split(None, 6)
    user, nice, system, idle, waiting = (int(word) for word in words[1:6])
    ticks = os.sysconf("SC_CLK_TCK")
    return {
        "uptime": time.clock_gettime(time.CLOCK_BOOTTIME),
        "load": [float(word) for word in read_text("/proc/loadavg").split()[:3]],
        "memory_total": memory["MemTotal"],
        "memory_available": memory["MemAvailable"],
        "swap_total": memory["SwapTotal"],
        "swap_free": memory["SwapFree"],
        "cpu_busy": (user + nice + system) / ticks,
        "cpu_idle": (idle + waiting) / ticks,
        "processes": sum(1 for _ in pids()),
        "disks": [disk_usage(path) for path in ("/", "/root")],
    }


def memory_lines() -> Iterator[tuple[str, int]]:
    for line in read_text("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        yield name, int(rest.split()[0]) * 1024


def disk_usage(path: str) -> Body:
    status = os.statvfs(path)
    return {
        "path": path,
        "size": status.f_blocks * status.f_frsize,
        "available": status.f_bavail * status.f_frsize,
    }


def serve_ports(port: Port, request: Body) -> None:
    port.stream = Process(port, lambda: {"ports": listening_ports()}, worker=True)


def listening_ports() -> list[Body]:
    """Listening tcp and unconnected udp sockets; those of one process once, however many."""
    sockets: dict[str, Body] = {}
    # States as in net/tcp_states.h: TCP_LISTEN, TCP_CLOSE.
    for protocol, state in (("tcp", "0A"), ("udp", "07")):
        for table in (protocol, protocol + "6"):
            for inode, address, port in bound_sockets(table, state):
                sockets[inode] = {"protocol": protocol, "address": address, "port": port}

    for pid, name, inode in owned_sockets():
        # What systemd listens on for another it shares with that, if that runs.
        if inode in sockets and sockets[inode].get("pid", 1) == 1:
            sockets[inode].update(pid=pid, process=name)

    distinct = {tuple(socket.items()): socket for socket in sockets.values()}.values()
    return sorted(distinct, key=lambda one: (one["protocol"], one["port"], one["address"]))


def bound_sockets(table: str, wanted: str) -> Iterator[tuple[str, str, int]]:
    """Inode, address and port out of proc(5), /proc/net/tcp."""
    try:
        lines = read_text(f"/proc/net/{table}").splitlines()[1:]
    except FileNotFoundError:
        return

    for line in lines:
        words = line.split()
        address, _, port = words[1].partition(":")
        if words[3] == wanted:
            yield words[9], readable_address(address), int(port, 16)


def readable_address(digits: str) -> str:
    """The file has 32-bit words as the machine stores them."""
    import _socket

    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    family = _socket.AF_INET if len(packed) == 4 else _socket.AF_INET6
    return _socket.inet_ntop(family, packed)


def owned_sockets() -> Iterator[tuple[int, str, str]]:
    for pid in pids():
        try:
            name = read_text(f"/proc/{pid}/comm")
            fds = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue

        for fd in fds:
            try:
                link = os.readlink(f"/proc/{pid}/fd/{fd}")
            except OSError:
                continue

            if link.startswith("socket:["):
                yield pid, name, link[len("socket:[") : -1]
