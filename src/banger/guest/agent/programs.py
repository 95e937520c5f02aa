"""The request `exec`: programs, as a user of the guest."""

from __future__ import annotations

import posix as os

from banger.guest.agent.fields import field, path_field, required, seconds_field, strings
from banger.guest.agent.process import Process, detach
from banger.guest.agent.resuming import serve_resume
from banger.guest.agent.system import encode, quietly, read_text
from banger.guest.agent.wire import AgentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from banger.guest.agent.port import Port
    from banger.guest.agent.wire import Body

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What pam_env(8) gives every login of a Debian.
ENVIRONMENT_FILES = ("/etc/environment", "/etc/default/locale")
# asm-generic/errno-base.h
ENOEXEC = 8


class Account:
    """Who a request is for: an entry of passwd(5)."""

    def __init__(self, name: str, uid: int, gid: int, home: str, shell: str) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home
        self.shell = shell or "/bin/sh"

    def become(self) -> None:
        if self.uid != os.geteuid():
            os.initgroups(self.name, self.gid)
            os.setgid(self.gid)
            os.setuid(self.uid)

    def environment(self) -> dict[str, str]:
        return {
            "PATH": PATH,
            "HOME": self.home,
            "USER": self.name,
            "LOGNAME": self.name,
            "SHELL": self.shell,
            "LANG": "C.UTF-8",
            **system_environment(),
        }


def system_environment() -> dict[str, str]:
    """The lines of the form NAME=VALUE; what is quoted as a whole is taken out of its quotes."""
    found = {}
    for path in ENVIRONMENT_FILES:
        try:
            lines = read_text(path).splitlines()
        except (OSError, ValueError):
            continue

        for line in lines:
            name, equals, value = line.strip().removeprefix("export ").partition("=")
            if equals and name.isidentifier():
                quoted = len(value) > 1 and value[0] in "\"'" and value[0] == value[-1]
                found[name] = value[1:-1] if quoted else value

    return found


def account_of(request: Body) -> Account:
    import pwd

    user = field(request, "user", "root")
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, ValueError, OverflowError):
        raise AgentError("unknown_user", f"the guest has no user {user!r}") from None

    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir, entry.pw_shell)


def guest_path(request: Body, account: Account) -> str:
    """What `path` says; a relative one begins in the user's home."""
    path = required(request, "path", str)
    if "\0" in path:
        raise AgentError("bad_request", "no path holds a zero")

    return path if path.startswith("/") else f"{account.home.rstrip('/')}/{path}"


def serve_exec(port: Port, request: Body) -> Body | None:
    """Without `argv`, the user's login shell.

    With a `token` that is known the stream was reset before the host heard that its program runs.
    """
    token, kept = field(request, "token", ""), port.agent.kept
    if token in kept.programs:
        return serve_resume(port, request)

    account = account_of(request)
    argv = strings(request, "argv")
    environment = {**account.environment(), **environment_field(request)}
    directory = "" if request.get("cwd") is None else path_field(request, "cwd")

    def run() -> NoReturn:
        account.become()
        os.umask(0o022)
        if directory:
            enter(directory)
        else:
            os.chdir("/")
            quietly(os.chdir, account.home)

        login = ["-" + account.shell.rpartition("/")[2]]
        execute(argv[0] if argv else account.shell, argv or login, environment)

    if field(request, "detach", False):
        return {"pid": detach(run, port.agent.loop)}

    size, timeout = terminal_size(request), seconds_field(request, "timeout")
    port.stream = program = Process(port, run, size=size, timeout=timeout, token=token)
    if token:
        kept.programs[token] = port.program = program

    return None


def environment_field(request: Body) -> dict[str, str]:
    environment: dict[str, str] = field(request, "env", {})
    for name, value in environment.items():
        if type(value) is not str or not name or "=" in name or "\0" in name + value:
            raise AgentError("bad_request", f"env cannot have {name!r} like that")

    return environment


def terminal_size(request: Body) -> bytes:
    """Empty without a terminal."""
    if not field(request, "tty", False):
        return b""

    rows, columns = field(request, "rows", 24), field(request, "columns", 80)
    if not (0 <= rows < 65536 and 0 <= columns < 65536):
        raise AgentError("bad_request", "no terminal is of that size")

    return rows.to_bytes(2, "big") + columns.to_bytes(2, "big")


def enter(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        refuse(126, f"cannot enter {directory}: {error.strerror}")


def execute(program: str, argv: list[str], environment: dict[str, str]) -> NoReturn:
    """execvpe(3), with the search path of the program's own environment."""
    folders = [""] if "/" in program else environment["PATH"].split(":")
    status, reason = 127, "not found"
    for folder in folders:
        path = f"{folder}/{program}" if folder else program
        try:
            os.execve(path, argv, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno == ENOEXEC:
                os.execve("/bin/sh", ["sh", path, *argv[1:]], environment)

            status, reason = 126, error.strerror or "cannot be run"

    refuse(status, f"{program}: {reason}")


def refuse(status: int, message: str) -> NoReturn:
    """The statuses are the shell's for a command that is not found or cannot be run."""
    quietly(os.write, 2, encode(f"banger: {message}\n"))
    os._exit(status)
