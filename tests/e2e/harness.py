"""Drives the real `banger` command in an installation of its own, and audits what it leaves."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).with_name("banger")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one command ended."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode().strip()

    @property
    def complaint(self) -> str:
        return self.stderr.decode(errors="replace").strip()

    def __str__(self) -> str:
        shown = self.stdout[-2000:].decode(errors="replace")
        return f"{' '.join(self.argv)} -> {self.status}\n{shown}\n{self.complaint[-4000:]}"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the HTTP API."""

    status: int
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)


class Banger:
    """One banger installation: a home, its daemon (started on demand), its VMs."""

    def __init__(self, home: Path, env: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.env = _environment(home) | dict(env or {})

    @property
    def run_dir(self) -> Path:
        return self.home / "run"

    @property
    def state_dir(self) -> Path:
        return self.home / "state"

    @property
    def socket(self) -> Path:
        return self.run_dir / "bangerd.sock"

    def run(
        self,
        *args: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = 240,
    ) -> Outcome:
        """Run `banger ARGS` to its end with streams that are pipes."""
        done = subprocess.run(
            [PROGRAM, *args],
            input=stdin,
            capture_output=True,
            env=self.env | dict(env or {}),
            timeout=timeout,
        )
        return Outcome(("banger", *args), done.returncode, done.stdout, done.stderr)

    def ok(self, *args: str, **options: Any) -> str:
        """As `run`, for a command that must succeed; returns its standard output, stripped."""
        outcome = self.run(*args, **options)
        assert outcome.status == 0, f"{outcome}\n{self.consoles()}"
        return outcome.text

    def json(self, *args: str) -> Any:
        """What a reading command says with `--json`."""
        return json.loads(self.ok(*args, "--json"))

    def vm(self, name: str) -> Any:
        return self.json("vm", "show", name)

    def sh(self, name: str, script: str, **options: Any) -> str:
        """Run a shell script in the guest `name`, which must succeed; its standard output."""
        return self.ok("vm", "ssh", name, "--", "sh", "-c", script, **options)

    def start(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start `banger ARGS` and leave it to the caller."""
        options = {"stdin": subprocess.DEVNULL, **options}
        return subprocess.Popen([PROGRAM, *args], env=self.env, **options)

    def api(self, method: str, path: str, body: object = None) -> Reply:
        """One HTTP request to the daemon, which must be running."""
        connection = _UnixConnection(self.socket)
        with contextlib.closing(connection):
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return Reply(response.status, response.read())

    def daemon_pid(self) -> int:
        """The pid of the daemon, which is started if it does not run."""
        self.ok("daemon", "start", "--quiet")
        pid: int = self.json("daemon", "status")["pid"]
        return pid

    def kill_daemon(self, number: int = signal.SIGKILL) -> int:
        """Kill the daemon and return the pid it had, once it is gone."""
        pid = self.daemon_pid()
        os.kill(pid, number)
        eventually(lambda: not alive(pid), "the daemon is gone")
        return pid

    def consoles(self) -> str:
        """The ends of what guests have said on their consoles."""
        logs = [*self.state_dir.glob("vms/*/console.log"), *self.state_dir.glob("failed/*.log")]
        return "\n".join(f"{log}:\n{log.read_text(errors='replace')[-2000:]}" for log in logs)

    def processes(self) -> list[tuple[int, str]]:
        """Every living process whose command line speaks of this home."""
        return [entry for entry in _processes() if str(self.home) in entry[1]]

    def vmms(self) -> list[int]:
        return [pid for pid, line in self.processes() if "qemu-system" in line.split()[0]]

    def rows(self) -> int:
        """How many VMs the store holds, read behind the daemon's back."""
        database = self.state_dir / "state.db"
        if not database.exists():
            return 0

        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
            count: int = store.execute("SELECT count(*) FROM vms").fetchone()[0]
            return count

    def leftovers(self) -> list[str]:
        """What VMs have left behind once all are deleted: processes, files, sockets, rows."""
        found = [f"process {pid}: {line}" for pid, line in self.processes() if "qemu" in line]
        found += [f"file {path}" for path in _below(self.run_dir / "vm")]
        found += [f"file {path}" for path in _below(self.run_dir / "t")]
        found += [f"file {path}" for path in _below(self.state_dir / "vms")]
        if self.rows():
            found.append(f"{self.rows()} rows")

        return found

    def close(self) -> list[str]:
        """Delete every VM and template, end the daemon, and return what is still there."""
        env = {"BANGER_FAULT": ""}
        with contextlib.suppress(subprocess.TimeoutExpired):
            listed = self.run("vm", "list", "--json", env=env)
            names = [vm["name"] for vm in json.loads(listed.stdout)] if listed.status == 0 else []
            if names:
                self.run("vm", "delete", *names, env=env)

            self.run("template", "prune", "--all", env=env)
            self.run("gc", env=env)
            self.run("daemon", "stop", env=env)

        left = self.leftovers()
        for kept in ("templates", "snapshots", "disks"):
            left += [f"file {path}" for path in _below(self.state_dir / kept)]

        eventually(lambda: not self.processes(), "every process is gone", fatal=False)
        for pid, line in self.processes():
            left.append(f"process {pid}: {line}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        left += [f"file {path}" for path in _below(self.run_dir) if path.is_socket()]
        return left


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("banger", timeout=240)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextlib.contextmanager
def installation(
    images: Path, env: Mapping[str, str] | None = None, *, templates: bool = False
) -> Iterator[Banger]:
    """A fresh home that already has `images`; whatever it leaves behind fails the test.

    Without `templates` every VM boots, and nothing goes on that the test has not asked for.
    """
    with short_directory() as home:
        adopt_images(images, home / "state")
        limits = "" if templates else '[limits]\ntemplates_size = "0"\nstandby = false\n'
        (home / "config.toml").write_text(f"{_own_ports()}{limits}")

        banger = Banger(home, env)
        try:
            yield banger
        finally:
            left = banger.close()

        assert not left, "left behind:\n" + "\n".join(left)


def _own_ports() -> str:
    """The configuration of ports that no other worker's installations use."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 22000 + 100 * worker
    return f'[network]\nssh_ports = "{first}-{first + 99}"\n'


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A private directory whose path leaves room for socket names (108 bytes, unix(7))."""
    path = Path(tempfile.mkdtemp(prefix="bng-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def adopt_images(images: Path, state: Path) -> None:
    """Give `state` the images and kernels of `images`, hard-linked: neither is written to."""
    state.mkdir(mode=0o700, parents=True)
    for kind in ("images", "kernels"):
        source = images / kind
        try:
            shutil.copytree(source, state / kind, copy_function=os.link, symlinks=True)
        except (OSError, shutil.Error):
            # Another file system: copy, keeping the holes.
            shutil.rmtree(state / kind, ignore_errors=True)
            subprocess.run(["cp", "-a", "--sparse=always", source, state / kind], check=True)


def eventually(
    condition: Callable[[], object], what: str, timeout: float = 180, *, fatal: bool = True
) -> bool:
    """Wait until `condition` holds; fail with `what` when it does not within `timeout` seconds.

    The longer it takes the less often it looks, for to look takes processor time from what it waits
    for.
    """
    deadline = time.monotonic() + timeout
    pause = 0.05
    while time.monotonic() < deadline:
        if condition():
            return True

        time.sleep(pause)
        pause = min(1.2 * pause, 1.0)

    assert not fatal, f"still not true after {timeout:.0f} s: {what}"
    return False


def alive(pid: int) -> bool:
    """Whether `pid` is a process that is not a zombie."""
    return state_of(pid) not in ("", "Z", "X")


def state_of(pid: int) -> str:
    """The state of the process `pid` as proc_pid_stat(5) has it; empty when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""

    return stat[stat.rindex(")") + 2 :].split()[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "USER") if name in os.environ}
    return kept | {"BANGER_HOME": str(home), "LANG": "C.UTF-8", "TERM": "xterm"}


def _processes() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and alive(int(entry.name)):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words[0]:
                    yield int(entry.name), " ".join(words).strip()


def _below(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*")) if directory.is_dir() else []
