"""Finds the daemon to talk to, and starts the embedded one when it does not run.

Where banger is installed, its owner talks to the service, which systemd starts and nobody else.

Only a socket in a directory that is ours and private is trusted. The daemon gets the writing end
of a pipe, its number in BANGER_READY_FD, and answers with one line: `ready`, or an ErrorBody as
JSON that says why it cannot start.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

import banger
from banger.api.errors import (
    BangerError,
    ErrorBody,
    ErrorCode,
    PermanentError,
    TransientError,
    from_body,
)
from banger.api.models import DaemonVersion
from banger.client.client import Client
from banger.client.transport import check_socket_path
from banger.host.paths import (
    Paths,
    default_paths,
    ensure_private,
    owned_installation,
    privacy_problem,
)

START_SECONDS = 30.0
STOP_SECONDS = 20.0
_LOG_TAIL = 8192

# Of a shell's environment these mean nothing, or something wrong, to a daemon that runs in /.
_NOT_INHERITED = ("BANGER_HOST", "PWD", "OLDPWD")


def connect(
    host: str | None = None,
    *,
    start: bool = True,
    notify: Callable[[str], None] = lambda line: None,
    timeout: float = 60.0,
) -> Client:
    """A client for the daemon on `host`, by default the one of `$BANGER_HOST`.

    Without either it is the installed daemon if this user owns it, else the embedded one, which
    `$BANGER_HOME` asks for by itself. `host` is the path of a socket, `unix://` before it or not.

    Only the embedded one is started if it does not run and `start` is set, and restarted if it is
    of another version and has nothing under way; `notify` hears of versions that differ. A daemon
    that stays silent for `timeout` seconds is given up.

    Raises TransientError(daemon_unreachable), and PermanentError: socket_insecure when the
    socket's directory is not private, daemon_start_failed or what kept the daemon from starting.
    """
    address = host or os.environ.get("BANGER_HOST")
    if address:
        client = Client(Path(address.removeprefix("unix://")).absolute(), timeout=timeout)
        client.version()
        return client

    installed = installed_daemon()
    if installed is not None:
        return _connect_installed(installed, notify, timeout)

    return EmbeddedDaemon(default_paths(), notify, timeout).connect(start=start)


def installed_daemon() -> Paths | None:
    """The directories of the service that this user talks to; None when there is none."""
    return None if os.environ.get("BANGER_HOME") else owned_installation()


def _connect_installed(paths: Paths, notify: Callable[[str], None], timeout: float) -> Client:
    try:
        problem = privacy_problem(paths.run)
    except FileNotFoundError:
        raise _service_down(paths.socket) from None
    if problem is not None:
        hint = "sudo banger system install makes it right again"
        raise PermanentError(ErrorCode.SOCKET_INSECURE, f"{paths.run} {problem}", hint=hint)

    client = Client(paths.socket, timeout=timeout)
    try:
        running = client.version().version
    except TransientError:
        raise _service_down(paths.socket) from None
    if running != banger.__version__:
        notify(
            f"the service is banger {running}, this is {banger.__version__}; "
            "bring it to this version with: sudo banger system install"
        )

    return client


def _service_down(socket: Path) -> TransientError:
    return TransientError(
        ErrorCode.DAEMON_UNREACHABLE,
        f"the service does not answer on {socket}",
        hint="sudo banger system restart; banger system status",
    )


class EmbeddedDaemon:
    """The daemon that serves the directories of `paths`, running or not."""

    def __init__(
        self,
        paths: Paths,
        notify: Callable[[str], None] = lambda line: None,
        timeout: float = 60.0,
    ) -> None:
        self._paths = paths
        self._notify = notify
        self._timeout = timeout

    def connect(self, *, start: bool = True) -> Client:
        """A client for it; see `connect` above."""
        check_socket_path(self._paths.socket)
        if not start and not self._paths.run.exists():
            raise _not_running()

        _make_private(self._paths.run)
        client = Client(self._paths.socket, timeout=self._timeout)
        try:
            running = client.version()
        except TransientError:
            if not start:
                raise _not_running() from None

            self._start_once(client)
        else:
            if start and running.version != banger.__version__:
                self._replace(client, running)

        return client

    def stop(self) -> bool:
        """End the running daemon and wait until it is gone; False when there was none."""
        try:
            client = self.connect(start=False)
        except TransientError:
            return False

        _shut_down(client, client.version().pid)
        return True

    def _start_once(self, client: Client) -> None:
        with self._starting():
            # Whoever had the lock before may have started it.
            try:
                client.version()
            except TransientError:
                self._start()

    def _replace(self, client: Client, running: DaemonVersion) -> None:
        with self._starting():
            try:
                running = client.version()
            except TransientError:
                self._start()
                return

            if running.version == banger.__version__:
                return

            busy = client.status().operations
            if busy:
                self._notify(
                    f"the daemon is banger {running.version}, this is {banger.__version__}; it "
                    f"stays until its {busy} operation(s) are done"
                )
                return

            _shut_down(client, running.pid)
            self._start()
            self._notify(f"daemon restarted: {running.version} -> {banger.__version__}")

    def _start(self) -> None:
        # Costly to import, and needed only here.
        from banger.host.runner import spawn_detached

        _make_private(self._paths.state)
        log_start = _size(self._paths.daemon_log)
        reader, writer = os.pipe()
        try:
            try:
                pid = spawn_detached(
                    [sys.executable, "-m", "banger.daemon.main"],
                    env=_environment(writer),
                    log_file=self._paths.daemon_log,
                    pass_fds=(writer,),
                )
            finally:
                os.close(writer)

            answer = _read_line(reader, START_SECONDS)
        except OSError as error:
            raise _start_failed(f"{error.strerror}: {error.filename}") from None
        finally:
            os.close(reader)

        if answer == b"ready":
            return

        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)

        raise self._reason(answer, log_start)

    def _reason(self, answer: bytes | None, log_start: int) -> BangerError:
        with suppress(msgspec.MsgspecError):
            return from_body(msgspec.json.decode(answer or b"", type=ErrorBody))

        log = self._paths.daemon_log
        line = _last_line(log, log_start) or "it logged nothing"
        what = "it ended" if answer is not None else f"not ready after {START_SECONDS:g} s"
        return _start_failed(f"{what}: {line}", f"the whole log is in {log}")

    @contextmanager
    def _starting(self) -> Iterator[None]:
        """Held by the one client that may start or replace the daemon; the others wait here."""
        descriptor = os.open(self._paths.run, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _make_private(directory: Path) -> None:
    try:
        ensure_private(directory)
    except OSError as error:
        raise _start_failed(f"cannot use {directory}: {error.strerror}") from None


def _not_running() -> TransientError:
    return TransientError(
        ErrorCode.DAEMON_UNREACHABLE,
        "the daemon is not running",
        hint="start it with: banger daemon start",
    )


def _start_failed(
    reason: str, hint: str = "check the directory, or set BANGER_HOME"
) -> BangerError:
    return PermanentError(
        ErrorCode.DAEMON_START_FAILED, f"the daemon did not start: {reason}", hint=hint
    )


def _environment(ready_fd: int) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    env["BANGER_READY_FD"] = str(ready_fd)
    if env.get("BANGER_HOME"):
        env["BANGER_HOME"] = str(Path(env["BANGER_HOME"]).absolute())

    if env.get("PYTHONPATH"):
        entries = env["PYTHONPATH"].split(os.pathsep)
        env["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in entries)

    return env


def _read_line(descriptor: int, timeout: float) -> bytes | None:
    """What was written up to a newline or the end of file; None after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    line = b""
    while not line.endswith(b"\n"):
        left = max(0.0, deadline - time.monotonic())
        if not select.select([descriptor], [], [], left)[0]:
            return None

        data = os.read(descriptor, 4096)
        if not data:
            break

        line += data

    return line.strip()


def _shut_down(client: Client, pid: int) -> None:
    # Costly to import, and needed only here.
    from banger.host.process import alive, reference

    process = reference(pid)
    client.shutdown()
    deadline = time.monotonic() + STOP_SECONDS
    while process is not None and alive(process):
        if time.monotonic() > deadline:
            raise TransientError(
                ErrorCode.DAEMON_UNREACHABLE,
                f"the daemon (pid {pid}) has not ended {STOP_SECONDS:g} s after it was asked to",
                hint="see what it is doing: banger daemon status",
            )

        time.sleep(0.02)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _last_line(log: Path, start: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(start, _size(log) - _LOG_TAIL))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""

    return next((line.strip() for line in reversed(lines) if line.strip()), "")
