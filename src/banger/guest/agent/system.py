"""Files, processes and descriptors, without `os` and `subprocess`."""

from __future__ import annotations

import posix as os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

S_IFMT, S_IFREG, S_IFDIR, S_IFLNK = 0o170000, 0o100000, 0o040000, 0o120000
# asm-generic/signal.h
SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGPIPE, SIGTERM, SIGCONT = 1, 2, 3, 9, 13, 15, 18
SIGTSTP, SIGTTIN, SIGTTOU, SIGXFSZ = 20, 21, 22, 25
DEFAULT_SIGNALS = (
    *(SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGXFSZ),
)


def describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror or error}"


def quietly(action: Callable[..., object], *arguments: object) -> None:
    """Do it if it can be done."""
    try:
        action(*arguments)
    except OSError:
        return


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def read_text(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return decode(b"".join(chunks(fd))).strip()
    finally:
        os.close(fd)


def chunks(fd: int, size: int = 1 << 18) -> Iterator[bytes]:
    while True:
        data = os.read(fd, size)
        if not data:
            return

        yield data


def write_text(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        write_all(fd, encode(text))
    finally:
        os.close(fd)


def replace_file(path: str, text: str, mode: int = 0o644) -> None:
    """Readers see the old content or the new."""
    temporary = f"{path}.banger"
    quietly(os.unlink, temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, mode)
    try:
        os.fchmod(fd, mode)
        write_all(fd, encode(text))
    finally:
        os.close(fd)

    os.rename(temporary, path)


def rewrite_file(path: str, text: str, mode: int = 0o644) -> None:
    """As `replace_file`, but in place if it is there: to make one takes an emulated guest 20 ms.

    For what nobody reads meanwhile.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        replace_file(path, text, mode)
        return

    try:
        # What it has already costs a transaction of the file system all the same.
        status, data = os.fstat(fd), encode(text)
        if status.st_mode & 0o7777 != mode:
            os.fchmod(fd, mode)

        write_all(fd, data)
        if status.st_size > len(data):
            os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def exists(path: str) -> bool:
    try:
        os.stat(path)
    except OSError:
        return False

    return True


def kind_of(path: str) -> int:
    """What the thing at `path`, or where a link there leads, is: one of the S_IF numbers."""
    return os.stat(path).st_mode & S_IFMT


def pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def kill_session(session: int, born_before: int) -> None:
    """Kill the processes of a session, whatever process groups its shell has put them in.

    `born_before` is in clock ticks since boot: the session's number may since be another's.
    """
    for pid in pids():
        try:
            stat = read_text(f"/proc/{pid}/stat")
        except OSError:
            continue

        # proc_pid_stat(5): after the name in parentheses, session is the 4th, starttime the 20th.
        words = stat[stat.rindex(")") + 2 :].split()
        if int(words[3]) == session and int(words[19]) <= born_before:
            quietly(os.kill, pid, SIGKILL)


def ticks_since_boot() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))
