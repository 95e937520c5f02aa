"""`bangerd`: the daemon, in the foreground until it is told to end. VMs outlive it."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import gc
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from banger import __version__
from banger.api.errors import (
    BangerError,
    ErrorBody,
    ErrorCode,
    PermanentError,
    TransientError,
)
from banger.host.config import Config, load_config
from banger.host.paths import HostPath, Paths, default_paths, ensure_private, system_paths
from banger.privileged.notify import notify, watchdog_seconds

log = logging.getLogger("banger.daemon.main")

READY_FD = "BANGER_READY_FD"

# How long to wait for a daemon that has the lock but no socket: it is about to end, or to serve.
_LOCK_SECONDS = 20.0
_LOCK_POLL_SECONDS = 0.05
# Requests under way get so long to be answered when the daemon ends.
_DRAIN_SECONDS = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon, or answer what the options ask; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.root_helper:
        parser.error("--root-helper goes with no other option")

    if options.image_builder:
        parser.error("--image-builder goes with no other option")

    host_path = HostPath.SYSTEM if options.system else HostPath.EMBEDDED
    paths = system_paths() if options.system else default_paths()
    if options.check_migrations:
        return _check_migrations(paths)

    ready = Readiness.from_environment()
    try:
        _run(paths, ready, host_path)
    except BangerError as error:
        _complain(ready, error)
        return 1
    except Exception as error:
        # The edge: whoever started the daemon waits for one line, the log has the rest.
        traceback.print_exc()
        reason = str(error) or type(error).__name__
        _complain(ready, PermanentError(ErrorCode.DAEMON_START_FAILED, reason))
        return 1

    return 0


class Readiness:
    """The pipe on which whoever started the daemon waits for one line; systemd is told as well."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    @classmethod
    def from_environment(cls) -> Readiness:
        """The pipe whose number is in $BANGER_READY_FD, taken out of there; it may be missing."""
        number = os.environ.pop(READY_FD, "")
        if not number.isdecimal():
            return cls(None)

        with suppress(OSError):
            # Not for the VMMs: the pipe would stay open for as long as they run.
            os.set_inheritable(int(number), False)
            return cls(int(number))

        return cls(None)

    def succeed(self) -> None:
        """Say that the socket is served."""
        self._say(b"ready\n")
        notify("READY=1")

    def fail(self, error: ErrorBody) -> None:
        """Say why it will not be; does nothing after `succeed`."""
        notify(f"STATUS={error.message}")
        self._say(msgspec.json.encode(error) + b"\n")

    def _say(self, line: bytes) -> None:
        if self._descriptor is None:
            return

        # Whoever asked may be gone.
        with suppress(OSError):
            os.write(self._descriptor, line)

        os.close(self._descriptor)
        self._descriptor = None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bangerd",
        description="The banger daemon. Without options it runs in the foreground until SIGTERM; "
        "the banger command starts it by itself. VMs outlive it.",
        epilog="example: BANGER_LOG_LEVEL=debug bangerd",
    )
    parser.add_argument("--version", action="version", version=f"bangerd {__version__}")
    parser.add_argument(
        "--system",
        action="store_true",
        help="be the daemon that `banger system install` installed: its directories, its helper",
    )
    parser.add_argument(
        "--root-helper",
        action="store_true",
        help="be the root helper instead; goes with no other option",
    )
    parser.add_argument(
        "--image-builder",
        action="store_true",
        help="be the service that builds one image instead; goes with no other option",
    )
    parser.add_argument(
        "--check-migrations",
        action="store_true",
        help="say whether the database fits this version, without changing it: "
        "exit status 0 yes, 1 it will be migrated, 2 it cannot be used",
    )
    return parser


def _check_migrations(paths: Paths) -> int:
    from banger.daemon.store.migrate import inspect

    found = inspect(paths.database)
    print(found.summary)
    return found.verdict.value


def _complain(ready: Readiness, error: BangerError) -> None:
    ready.fail(error.body())
    hint = f" ({error.hint})" if error.hint else ""
    print(f"bangerd: {error.message}{hint}", file=sys.stderr)


def _run(paths: Paths, ready: Readiness, host_path: HostPath) -> None:
    from banger.daemon.log import start_logging

    os.umask(0o077)
    for directory in (paths.state, paths.cache, paths.run):
        ensure_private(directory)

    config = load_config(paths.config_file)
    with _lock(paths, host_path):
        start_logging(paths.daemon_log, config.log_level)
        asyncio.run(_serve(paths, config, ready, host_path))


@contextmanager
def _lock(paths: Paths, host_path: HostPath) -> Iterator[None]:
    """Be the only daemon of these directories. Raises TransientError(daemon_start_failed)."""
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _wait_for_lock(descriptor, paths, host_path)
        os.truncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, paths: Paths, host_path: HostPath) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if paths.socket.exists() or time.monotonic() > deadline:
                raise _already_served(descriptor, paths.socket, host_path) from None

            time.sleep(_LOCK_POLL_SECONDS)
        else:
            return


def _already_served(descriptor: int, path: Path, host_path: HostPath) -> TransientError:
    pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    return TransientError(
        ErrorCode.DAEMON_START_FAILED,
        f"another bangerd (pid {pid}) serves {path}",
        hint=f"use that one, or: {host_path.renewal}",
    )


async def _serve(paths: Paths, config: Config, ready: Readiness, host_path: HostPath) -> None:
    from banger.daemon.app import build_app
    from banger.daemon.compose import compose
    from banger.daemon.server import Server

    stop, closing = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    services = await compose(paths, config, host_path)
    alive = asyncio.create_task(_stay_watched())
    try:
        server = Server(build_app(services, shutdown=stop.set, closing=closing), paths.socket)
        await server.open()
        log.info("banger %s serves %s, pid %d", __version__, paths.socket, os.getpid())
        ready.succeed()
        # What was made to start stays for good: not worth looking at again.
        gc.collect()
        gc.freeze()
        await stop.wait()
        log.info("ending; VMs run on")
        notify("STOPPING=1")
        server.stop_accepting()
        # Ends those streams that follow an operation; the others wait for `closing`.
        await services.operations.close()
        closing.set()
        await server.drain(_DRAIN_SECONDS)
    finally:
        alive.cancel()
        await services.close()

    log.info("ended")


async def _stay_watched() -> None:
    """Tell systemd that the loop runs, as often as it wants to hear it."""
    pause = watchdog_seconds()
    while pause is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(pause)


if __name__ == "__main__":
    sys.exit(main())
