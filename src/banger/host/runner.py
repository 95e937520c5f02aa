"""The only place that starts other programs.

`run` waits for a tool and returns what it printed; `start_foreground` lends it the terminal;
`spawn_detached` leaves it running. Each logs a command line that can be pasted into a shell.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError
from banger.host.files import disk_full

# e2fsprogs lives there, and Debian leaves them out of an ordinary user's PATH.
_SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_NO_SPACE = (os.strerror(errno.ENOSPC).encode(), os.strerror(errno.EDQUOT).encode())

# Far beyond what any tool prints, because a longer one is an error in asyncio's reader.
_LONGEST_LINE = 2**20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What a program that ran to its end left: exit status (negative: killed by that signal)."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    @property
    def found_disk_full(self) -> bool:
        """Whether it said that a disk or a quota is used up."""
        return any(words in self.stderr + self.stdout for words in _NO_SPACE)

    def complaint(self) -> str:
        """The last line of standard error, or the status: what a one-line error wants to say."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else f"exit status {self.status}"


async def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
    timeout: float | None = 60.0,
    on_line: Callable[[str], None] | None = None,
) -> Result:
    """Run `argv` to its end and return what it printed.

    `env` replaces the environment, which is banger's own with messages in English. The child is in
    a process group of its own, which is killed when `timeout` seconds have passed or the caller is
    cancelled, so nothing it started is left behind. `on_line` hears every line of standard error
    as it comes.
    Raises PermanentError: tool_missing when there is no such program, tool_failed when `check` and
    its status is not zero (insufficient_disk when that is why), or on timeout.
    """
    if env is None:
        env = os.environ | {"LC_ALL": "C.UTF-8"}

    program, *arguments = (os.fspath(word) for word in argv)
    words = (require(program, env.get("PATH")), *arguments)
    log.debug("run: %s", shlex.join(words))
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
            limit=_LONGEST_LINE,
        )
    except FileNotFoundError:
        raise tool_missing(words[0]) from None
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await _converse(process, stdin, on_line)
    except TimeoutError:
        raise PermanentError(
            ErrorCode.TOOL_FAILED, f"{words[0]} did not finish within {timeout:g} s"
        ) from None
    finally:
        if process.returncode is None:
            await _kill_group(process)
    result = Result(words, process.returncode or 0, stdout, stderr)
    if check and result.status != 0:
        log.warning("failed (%d): %s: %s", result.status, shlex.join(words), result.complaint())
        if result.found_disk_full:
            raise disk_full(f"running {Path(words[0]).name}")

        raise PermanentError(
            ErrorCode.TOOL_FAILED, f"{Path(words[0]).name} failed: {result.complaint()}"
        )
    return result


def start_foreground(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `argv` on this process's own streams and terminal; the caller waits for it."""
    try:
        return subprocess.Popen(argv, env=env)
    except FileNotFoundError:
        raise tool_missing(argv[0]) from None


def spawn_detached(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    log_file: Path,
    pass_fds: Sequence[int] = (),
) -> int:
    """Start `argv` in a session of its own, output appended to `log_file`; return its pid.

    The child outlives this process and is not waited for.
    """
    log.debug("spawn: %s", shlex.join(os.fspath(word) for word in argv))
    with log_file.open("ab") as sink:
        try:
            child = subprocess.Popen(
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                pass_fds=pass_fds,
                cwd="/",
            )
        except FileNotFoundError:
            raise tool_missing(os.fspath(argv[0])) from None
    pid = child.pid
    # Not ours to wait for: without this Popen warns about a child that is still running.
    child.returncode = 0
    return pid


def locate(program: str, path: str | None = None) -> str | None:
    """The file that `program` names, searched in `path` ($PATH) and the system directories."""
    if "/" in program:
        return program if _executable(program) else None

    directories = (os.environ.get("PATH", os.defpath) if path is None else path).split(":")
    candidates = (os.path.join(where, program) for where in (*directories, *_SYSTEM_DIRECTORIES))  # noqa: PTH118
    return next(filter(_executable, candidates), None)


def require(program: str, path: str | None = None) -> str:
    """Like `locate`; raises PermanentError(tool_missing) when there is no such program."""
    found = locate(program, path)
    if found is None:
        raise tool_missing(program)

    return found


def tool_missing(program: str) -> PermanentError:
    """The error for a program that is not installed."""
    return PermanentError(
        ErrorCode.TOOL_MISSING,
        f"{program} is not installed",
        hint="run ./scripts/quickstart, or install it and check with: banger doctor",
    )


def _executable(file: str) -> bool:
    return os.path.isfile(file) and os.access(file, os.X_OK)  # noqa: PTH113


async def _converse(
    process: asyncio.subprocess.Process, stdin: bytes | None, on_line: Callable[[str], None] | None
) -> tuple[bytes, bytes]:
    if on_line is None:
        return await process.communicate(stdin)

    assert process.stdout is not None
    assert process.stderr is not None
    stdout, stderr, _ = await asyncio.gather(
        process.stdout.read(), _listen(process.stderr, on_line), _feed(process, stdin)
    )
    await process.wait()
    return stdout, stderr


async def _listen(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> bytes:
    lines = []
    async for line in stream:
        lines.append(line)
        on_line(line.decode(errors="replace").rstrip())

    return b"".join(lines)


async def _feed(process: asyncio.subprocess.Process, data: bytes | None) -> None:
    if process.stdin is None or data is None:
        return

    # A program may end, or close its input, without having read all of it.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(data)
        await process.stdin.drain()

    process.stdin.close()


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.shield(process.wait())
