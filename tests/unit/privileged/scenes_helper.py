"""A live helper on a socket, and clients that wish it ill."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from banger.privileged.codec import MAX_MESSAGE, encode_call
from banger.privileged.ops import OPERATIONS, EnsureBridge, Hello, ListOwned, Request

SOCKET = "/srv/helper/helper.sock"
OWNER, STRANGER = 1000, 1001

SERVE = """
import os, sys
from pathlib import Path
from banger.privileged.helper import Server, listen
from banger.privileged.site import Site
os.umask(0o077)
site = Site(owner_uid=1000, owner_gid=1000, roots=("/srv/state",), jails="/srv/jail")
Path(site.jails).mkdir(exist_ok=True)
with listen(site, sys.argv[1]) as listener:
    Server(site, listener).serve()
"""

Answer = dict[str, dict[str, str]]


class Running:
    """A helper process, its journal, and the notifications it sent."""

    def __init__(self, *wrapper: str, pass_fds: tuple[int, ...] = ()) -> None:
        self.journal = Path("/srv/journal")
        Path("/srv/state").mkdir(exist_ok=True)
        os.chown("/srv/state", OWNER, OWNER)
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind("\0notices")
        self._notices.settimeout(20)
        with self.journal.open("ab") as journal:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, "-W", "error", "-c", SERVE, SOCKET],
                env=os.environ | {"NOTIFY_SOCKET": "@notices"},
                stderr=journal,
                pass_fds=pass_fds,
            )
        assert self._notices.recv(100) == b"READY=1"

    def audit(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.journal.read_text().splitlines()]


@contextmanager
def helper() -> Iterator[Running]:
    running = Running()
    try:
        yield running
        assert running.process.poll() is None, running.journal.read_text()
    finally:
        running.process.terminate()
        assert running.process.wait(10) == 0


def connect() -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(30)
    client.connect(SOCKET)
    return client


def ask(line: bytes) -> Answer:
    with connect() as client:
        client.sendall(line)
        return answer(client)


def answer(client: socket.socket) -> Answer:
    with client.makefile("rb") as stream:
        reply: Answer = json.loads(stream.readline())
        return reply


def as_user(uid: int, act: Callable[[], None]) -> int:
    """Exit status of a child that does `act` as `uid`."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def the_owner_is_served_and_every_call_is_told_of() -> None:
    with helper() as running:
        info = Path(SOCKET).stat()
        assert (info.st_mode & 0o777, info.st_uid, info.st_gid) == (0o600, OWNER, OWNER)
        assert as_user(OWNER, lambda: _greets("op-one")) == 0
        refused = ask(encode_call(EnsureBridge(bridge="eth0", address="1", prefix=1), "op-two"))
        assert refused["error"]["code"] == "refused"

        first, second = running.audit()
        assert first | {"ms": 0, "pid": 0} == {
            "audit": "banger-root-helper", "operation": "op-one", "op": "hello", "uid": OWNER,
            "pid": 0, "ms": 0, "outcome": "ok",
        }  # fmt: skip
        assert second["operation"] == "op-two"
        assert second["op"] == "ensure_bridge"
        assert second["outcome"] == "refused"
        assert second["uid"] == 0
        assert "eth0" in str(second["message"])


def _greets(operation: str) -> None:
    assert ask(encode_call(Hello(), operation))["result"]["version"]


def another_user_is_turned_away() -> None:
    with helper() as running:
        assert as_user(STRANGER, lambda: _greets("op-x")) != 0
        assert running.audit() == [], "the socket's mode keeps it out"

        # Even a socket that everybody may open answers nobody but the owner and root.
        Path(SOCKET).chmod(0o666)
        assert as_user(STRANGER, _is_told_nothing) == 0
        (line,) = running.audit()
        assert (line["outcome"], line["uid"], line["op"]) == ("unauthorized", STRANGER, "-")


def _is_told_nothing() -> None:
    with connect() as client:
        try:
            client.sendall(encode_call(Hello(), "op-x"))
            assert client.recv(1) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass


def long_and_slow_requests_are_bounded() -> None:
    with helper() as running:
        with connect() as client:
            try:
                for _ in range(2 * MAX_MESSAGE // 65536):
                    client.sendall(b" " * 65536)
            except (BrokenPipeError, ConnectionResetError):
                pass
            else:
                raise AssertionError("it read everything")

        slow = [connect() for _ in range(20)]
        for client in slow:
            client.sendall(b"{")

        _greets("op-meanwhile")
        for client in slow:
            assert answer(client)["error"]["code"] == "timeout"
            client.close()

        outcomes = [line["outcome"] for line in running.audit()]
        assert outcomes.count("timeout") == 20
        assert outcomes.count("ok") == 1


def clients_that_go_away_do_no_harm() -> None:
    with helper() as running:
        for _ in range(50):
            with connect() as client:
                client.sendall(encode_call(ListOwned(), "op-gone"))

            connect().close()

        _greets("op-after")
        _eventually(lambda: len(running.audit()) == 101)


def more_connections_than_it_takes_wait() -> None:
    with helper():
        idle = [connect() for _ in range(60)]
        _greets("op-later")
        for client in idle:
            client.close()


def stopping_lets_work_go_on() -> None:
    running = Running()
    client = connect()
    client.sendall(b'{"version"')
    _eventually(lambda: len(_children(running.process.pid)) == 1)
    running.process.terminate()
    assert running.process.wait(10) == 0
    client.sendall(encode_call(Hello(), "op")[len(b'{"version"') :])
    assert answer(client)["result"]


def a_socket_of_systemds_is_taken() -> None:
    listener = socket.socket(socket.AF_UNIX)
    Path(SOCKET).parent.mkdir()
    listener.bind(SOCKET)
    listener.listen()
    # LISTEN_PID has to be the helper's, which only a shell that becomes it can know.
    shell = f'exec 3<&{listener.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
    running = Running("sh", "-c", shell, "sh", pass_fds=(listener.fileno(),))
    listener.close()
    _greets("op")
    running.process.terminate()
    assert running.process.wait(10) == 0


def random_requests_leave_it_serving(count: str) -> None:
    _lay_bait()
    before = _outside()
    with helper() as running:
        with ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(_send_random, range(int(count))))

        assert codes.count("internal") == 0, [
            line for line in running.audit() if line["outcome"] == "internal"
        ]
        _greets("op-after")
        assert len(running.audit()) == int(count) + 1
        assert _outside() ^ before == set()
        assert {code for code in codes if code} >= {"bad_request", "refused", "ok"}


def _lay_bait() -> None:
    """Files of root's, and ways from the owner's directory to them."""
    for place in ("/srv/canary", "/srv/state"):
        Path(place).mkdir()

    Path("/srv/canary/secret").write_text("secret")
    Path("/srv/canary/empty").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("/srv/canary/socket")

    Path("/srv/state/link").symlink_to("/srv/canary")
    Path("/srv/state/name").symlink_to("/srv/canary/secret")
    for name in ("secret", "socket"):
        Path(f"/srv/state/hard-{name}").hardlink_to(f"/srv/canary/{name}")


def _outside() -> set[str]:
    """The bait, as it has to stay."""
    done = subprocess.run(
        ["find", "/srv/canary", "/srv/dev", "-printf", "%p %y %m %u %g %n %s %T@ %l\n"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.splitlines())


def _send_random(seed: int) -> str:
    chance = random.Random(seed)
    line = _random_line(chance)
    reply = ask(line)
    return reply["error"]["code"] if "error" in reply else "ok"


_WORDS = [
    "", "br-fc", "br-fc-a", "tap-fc-1", "tap-fc-2", "eth0", "lo", "fc-rootfs-a", "../../etc", "..",
    "/etc/shadow", "/srv/state", "/srv/state/a", "/srv/state/../../etc/passwd", "/proc/self/root",
    "/dev/null", "a", "v1", "/srv/canary", "/srv/canary/secret", "/srv/state/link/secret",
    "/srv/state/name", "/srv/state/link", "/srv/state/hard-secret", "/srv/state/hard-socket",
    "172.16.0.1", "172.16.0.9", "127.0.0.1", "0.0.0.0/0", "::1", "nat",
    "none", "allow", "KILL", "TERM", "02:fc:00:00:00:01", "br-fc\n", "-batch", "é", "a" * 5000,
    "/usr/bin/env", "/srv/jail/firecracker/v1", "$(id)", "; reboot", "\x00", "%s", "-1",
]  # fmt: skip


def _random_line(chance: random.Random) -> bytes:
    kind = chance.randrange(10)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 200)).replace(b"\n", b" ") + b"\n"

    if kind == 1:
        return b"[" * chance.randrange(1, 100_000) + b"\n"

    name = chance.choice([*OPERATIONS, "reboot"])
    body = {
        "version": 1 if kind < 9 else chance.choice([0, 2, "1", None]),
        "operation": f"op-{chance.randrange(9)}",
        "op": name,
        "args": _random_arguments(chance, OPERATIONS.get(name, Hello)),
    }
    line = bytearray(json.dumps(body).encode())
    if kind == 2:
        line[chance.randrange(len(line))] = chance.randrange(256)

    return bytes(line).replace(b"\n", b" ") + b"\n"


def _random_arguments(chance: random.Random, request: type[Request[object]]) -> dict[str, object]:
    fields = getattr(request, "__dataclass_fields__", {})
    return {
        name: _random_value(chance, str(field.type))
        for name, field in fields.items()
        if chance.random() < 0.97
    }


def _random_value(chance: random.Random, hint: str) -> object:
    if chance.random() < 0.05:
        return chance.choice([None, True, 1.5, [], {}, "x", -1, 2**70])

    if hint.startswith("tuple[str"):
        return [chance.choice(_WORDS) for _ in range(chance.randrange(4))]

    if hint == "int":
        return chance.choice([0, 1, 8, 24, 53, 4096, 2**31, 2**40, os.getpid(), -5])

    if hint == "bool":
        return chance.random() < 0.5

    if hint == "Process":
        return {"pid": chance.choice([0, 1, 2, os.getpid(), 2**31]), "start_time": 1}

    return [] if hint.startswith("tuple") else chance.choice(_WORDS)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _eventually(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return

        time.sleep(0.01)

    raise AssertionError("never came true")


def killed_workers_are_told_of() -> None:
    with helper() as running:
        client = connect()
        _eventually(lambda: len(_children(running.process.pid)) == 1)
        os.kill(int(_children(running.process.pid)[0]), signal.SIGKILL)
        assert client.recv(1) == b""
        _eventually(lambda: [line["outcome"] for line in running.audit()] == ["died"])
