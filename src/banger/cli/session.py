"""Commands and shells in a guest, over ssh: its streams, its terminal and its exit status are ours.

ssh(1) writes what it has to say itself into a file of its own (-E), so the guest's standard error
stays as the guest wrote it. There it also notes that an exit status came from the guest, which
tells a guest's 255 from ssh's own failure.

Without a terminal a signal cannot travel as a key press. The local ssh then runs with the signals
blocked, and for each one that banger gets, a second ssh sends it to every guest process that has
inherited this session's BANGER_EXEC_ID.
"""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Protocol

import msgspec

from banger.api.errors import ErrorCode, TransientError
from banger.api.models import SSHEndpoint
from banger.host.runner import start_foreground

_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_SSH_FAILED = 255
_LOG_MAX = 65536
_GUEST_STATUS = b"rtype exit-status"

# A shell that runs the command as its child turns death by a signal into 128 + its number, which
# sshd does not. Its traps let it outlive a signal that is sent to the whole session, and without
# a standard error of its own it cannot add "Killed" to the command's.
_WRAPPER = 'trap : HUP INT QUIT TERM; exec 3>&2 2>/dev/null; (exec "$@" 2>&3 3>&-); exit $?'
_LOGIN_SHELL = ("sh", "-c", 'exec "${SHELL:-/bin/sh}" -l')

# Tries for ten seconds, because the signal may come before sshd has started the command.
_SEND_SIGNAL = """\
n=0
while [ $n -lt 50 ]; do
  found=$(grep -lsaF BANGER_EXEC_ID={id} /proc/[0-9]*/environ)
  for file in $found; do
    pid=${{file#/proc/}}
    kill -{signal} "${{pid%/environ}}" 2>/dev/null
  done
  [ -n "$found" ] && exit 0
  n=$((n + 1))
  sleep 0.2
done
exit 1
"""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What to do in the guest called `name`.

    Without `command` it is the login shell. `env` is set in the guest and appears in no command
    line. `ssh_args` are for ssh(1) as they are, instead of a command.
    """

    name: str
    endpoint: SSHEndpoint
    command: Sequence[str] = ()
    env: Mapping[str, str] = {}
    ssh_args: Sequence[str] = ()

    @property
    def wants_terminal(self) -> bool:
        """Whether the guest gets a terminal: a shell if we read from one, a command if all three
        of our streams are one, since a terminal would mix its outputs.
        """
        return all(map(os.isatty, (0, 1, 2) if self.command else (0,)))


def run_session(session: Session) -> int:
    """Run `session` on this process's streams; returns the guest's exit status, 128 + n for
    signal n.

    Raises TransientError(ssh_failed) when ssh could not connect or lost the connection.
    """
    log = os.memfd_create("ssh-log")
    try:
        if session.ssh_args or session.wants_terminal:
            status = _run_on_terminal(session, _log_path(log))
        else:
            status = _run_on_streams(session, _log_path(log))

        if status == _SSH_FAILED:
            _raise_complaint(session, os.pread(log, _LOG_MAX, 0))

        return status
    finally:
        os.close(log)


def ssh_command(endpoint: SSHEndpoint, log_path: str | None = None) -> list[str]:
    """ssh(1) with all that makes it reach exactly that guest, up to and with the host name.

    It obeys no configuration file, asks nobody, offers no other key, and gives up on a guest that
    is silent for half a minute.
    """
    options = {
        "LogLevel": "ERROR",
        # OpenSSH 8.5 and later; to tell who an exit status of 255 is from.
        "IgnoreUnknown": "LogVerbose,WarnWeakCrypto",
        "LogVerbose": "clientloop.c:client_input_channel_req():*",
        "BatchMode": "yes",
        "User": endpoint.user,
        "Port": str(endpoint.port),
        "IdentityFile": _path(endpoint.identity_file),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "UserKnownHostsFile": _path(endpoint.known_hosts_file),
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": endpoint.host_key_alias,
        "HostKeyAlgorithms": "ssh-ed25519",
        # The post-quantum default costs an emulated guest 0.2 s more, on the host's own loopback.
        # OpenSSH 10.1 and later would warn of the choice.
        "KexAlgorithms": "^curve25519-sha256",
        "WarnWeakCrypto": "no",
        "StrictHostKeyChecking": "yes",
        "CheckHostIP": "no",
        "UpdateHostKeys": "no",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "ControlPath": "none",
        "ConnectTimeout": "30",
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
    }
    words = ["ssh", "-F", "/dev/null"]
    if log_path is not None:
        words += ["-E", log_path]

    for name, value in options.items():
        words += ["-o", f"{name}={value}"]

    return [*words, endpoint.host]


def remote_command(command: Sequence[str]) -> str:
    """`command` as text for the guest's login shell, each word kept as it is."""
    return shlex.join(["exec", "sh", "-c", _WRAPPER, "sh", *command])


class _Child(Protocol):
    """As much of a running program as is needed here."""

    def wait(self) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


def _run_on_terminal(session: Session, log_path: str) -> int:
    words = _with_environment(ssh_command(session.endpoint, log_path), session.env)
    if session.ssh_args:
        words += session.ssh_args
    else:
        words += ["-tt", *([remote_command(session.command)] if session.command else [])]

    with _terminal_kept():
        process = start_foreground(words, env=os.environ | session.env)
        got: list[int] = []

        def pass_on(number: int, frame: FrameType | None) -> None:
            # From the keyboard they come as bytes, so these are from outside: end the session.
            got.append(number)
            process.terminate()

        with _handling(pass_on):
            status = process.wait()

    return 128 + got[0] if got else _shell_status(status)


def _run_on_streams(session: Session, log_path: str) -> int:
    exec_id = secrets.token_hex(8)
    env = {**session.env, "BANGER_EXEC_ID": exec_id}
    words = _with_environment(ssh_command(session.endpoint, log_path), env)
    words += ["-T", remote_command(session.command or _LOGIN_SHELL)]
    # Blocked in the child for good, and here until the handler that sends them on is in place.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        process = start_foreground(words, env=os.environ | env)
        relay = _Relay(session.endpoint, exec_id, process)
        with _handling(relay.handle):
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            status = process.wait()

        relay.close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    return 128 + relay.got[0] if relay.gave_up else _shell_status(status)


class _Relay:
    """Sends the first signal on to the guest; the second ends the local ssh instead."""

    def __init__(self, endpoint: SSHEndpoint, exec_id: str, process: _Child) -> None:
        self._endpoint = endpoint
        self._exec_id = exec_id
        self._process = process
        self._sender: _Child | None = None
        self.got: list[int] = []
        self.gave_up = False

    def close(self) -> None:
        """End what may still be looking for the guest's processes."""
        if self._sender is not None:
            self._sender.kill()
            self._sender.wait()

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.got.append(number)
        if self._sender is not None:
            self.gave_up = True
            self._process.kill()
            return

        name = signal.Signals(number).name.removeprefix("SIG")
        script = _SEND_SIGNAL.format(id=self._exec_id, signal=name)
        # -n, or it would eat the input of the command it is to end.
        words = [*ssh_command(self._endpoint, "/dev/null"), "-n", "-T"]
        self._sender = start_foreground([*words, shlex.join(["exec", "sh", "-c", script])])


def _with_environment(words: list[str], env: Mapping[str, str]) -> list[str]:
    return [*words, "-o", f"SendEnv={' '.join(env)}"] if env else words


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have `handler` called for the signals that end a program, except for ignored ones (nohup)."""
    previous: dict[signal.Signals, Any] = {}
    try:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, handler)

        yield
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


@contextmanager
def _terminal_kept() -> Iterator[None]:
    """Put the terminal back as it was, in case ssh is killed while it is in raw mode."""
    attributes = None
    with suppress(termios.error):
        attributes = termios.tcgetattr(0)

    try:
        yield
    finally:
        if attributes is not None:
            with suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, attributes)


def _raise_complaint(session: Session, log: bytes) -> None:
    if _GUEST_STATUS in log:
        return

    lines = [line.strip() for line in log.decode(errors="replace").splitlines() if line.strip()]
    reason = lines[-1] if lines else "the connection was closed"
    raise TransientError(
        ErrorCode.SSH_FAILED,
        f"ssh to {session.name} ended: {reason}",
        hint=f"see: banger vm show {session.name}, banger vm logs {session.name}",
    )


def _shell_status(status: int) -> int:
    return 128 - status if status < 0 else status


def _log_path(descriptor: int) -> str:
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _path(path: str) -> str:
    # ssh_config(5): per cent signs are tokens, and arguments with spaces are quoted.
    escaped = path.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
