"""The requests `get` and `put`: files and trees."""

from __future__ import annotations

import posix as os

from banger.guest.agent.archive import (
    BLOCK,
    COPY_CHUNK,
    DIRECTORY,
    FILE,
    SYMLINK,
    Member,
    TarReader,
    tar_header,
)
from banger.guest.agent.fields import field, required
from banger.guest.agent.process import Process
from banger.guest.agent.programs import account_of, guest_path
from banger.guest.agent.system import (
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    chunks,
    kind_of,
    write_all,
)
from banger.guest.agent.wire import AgentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from banger.guest.agent.port import Port
    from banger.guest.agent.wire import Body

ZEROS = bytes(COPY_CHUNK)
MAX_SKIPPED = 100


def serve_get(port: Port, request: Body) -> None:
    account = account_of(request)
    path, form = guest_path(request, account), field(request, "format", "tar")

    def run() -> Body:
        account.become()
        as_tree = form == "tar" or (form == "auto" and kind_of(path) == S_IFDIR)
        return send_tree(path) if as_tree else send_file(path)

    port.stream = Process(port, run, worker=True)


def serve_put(port: Port, request: Body) -> None:
    account = account_of(request)
    path, name = guest_path(request, account), required(request, "name", str)
    mode, raw = field(request, "mode", 0o644), field(request, "format", "tar") == "raw"

    def run() -> Body:
        account.become()
        os.umask(0)
        folder, name_there = destination(path, name)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        tree = Tree(fd, name_there)
        if raw:
            tree.write(Member(".", FILE, mode & 0o7777, mtime=-1), chunks(0))
        else:
            tree.fill(TarReader(0))

        return {"path": f"{folder.rstrip('/')}/{name_there}"}

    port.stream = Process(port, run, worker=True)


def send_file(path: str) -> Body:
    fd = open_file(path)
    size = 0
    for data in chunks(fd, COPY_CHUNK):
        write_all(1, data)
        size += len(data)

    return {"size": size, "mode": os.fstat(fd).st_mode & 0o7777}


def open_file(path: str) -> int:
    # Opening anything else may wait, or have effects.
    kind = kind_of(path)
    if kind == S_IFDIR:
        raise AgentError("is_a_directory", f"{path} is a directory")

    if kind != S_IFREG:
        raise AgentError("not_a_file", f"{path} is not a regular file")

    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def send_tree(path: str) -> Body:
    """The thing at `path` as ".", and what is below it; a link at `path` itself is followed."""
    skipped: list[str] = []
    # The slash makes lstat(2) follow it as well.
    pending = [(".", path.rstrip("/") + "/")]
    if kind_of(path) != S_IFDIR:
        send_file_member(".", path)
        pending.clear()

    while pending:
        name, place = pending.pop()
        status = os.lstat(place)
        kind = status.st_mode & S_IFMT
        mode, mtime = status.st_mode & 0o7777, int(status.st_mtime)
        if kind == S_IFDIR:
            write_all(1, tar_header(Member(name, DIRECTORY, mode, mtime=mtime)))
            entries = sorted(os.listdir(place), reverse=True)
            pending += [(f"{name}/{entry}", f"{place.rstrip('/')}/{entry}") for entry in entries]
        elif kind == S_IFREG:
            send_file_member(name, place)
        elif kind == S_IFLNK:
            write_all(1, tar_header(Member(name, SYMLINK, mode, 0, mtime, os.readlink(place))))
        else:
            skipped.append(name)

    write_all(1, bytes(2 * BLOCK))
    return {"skipped": skipped[:MAX_SKIPPED]}


def send_file_member(name: str, path: str) -> None:
    """Exactly as much as the header says, even of a file that is being written."""
    fd = open_file(path)
    status = os.fstat(fd)
    size, mode, mtime = status.st_size, status.st_mode & 0o7777, int(status.st_mtime)
    write_all(1, tar_header(Member(name, FILE, mode, size, mtime)))
    left = size
    while left:
        data = os.read(fd, min(left, COPY_CHUNK)) or ZEROS[:left]
        write_all(1, data)
        left -= len(data)

    write_all(1, bytes(-size % BLOCK))
    os.close(fd)


def destination(path: str, name: str) -> tuple[str, str]:
    """As cp(1): into `path`, under its own name, if that is a directory; else as `path`."""
    try:
        if kind_of(path) == S_IFDIR:
            return path, file_name(name)
    except FileNotFoundError:
        if path.endswith("/"):
            raise AgentError("no_such_path", f"there is no directory {path}") from None

    folder, _, last = path.rpartition("/")
    return folder or "/", file_name(last)


def file_name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise AgentError("bad_request", f"{name!r} is not the name of a file")

    return name


class Tree:
    """Writes members below one name in a directory; it walks no link that it finds there."""

    def __init__(self, base: int, top: str) -> None:
        self.base = base
        self.top = top
        self.folder: tuple[str, ...] = ()
        self.folder_fd = base
        self.made: list[tuple[tuple[str, ...], Member]] = []

    def fill(self, reader: TarReader) -> None:
        for member in reader.members():
            if member.kind == DIRECTORY:
                self.make_directory(member)
            elif member.kind == FILE:
                self.write(member, reader.content())
            elif member.kind == SYMLINK:
                self.link(member)
            else:
                raise AgentError("bad_archive", f"{member.name!r} is of a kind not copied")

        for parts, member in reversed(self.made):
            fd = self.enter(parts)
            os.fchmod(fd, member.mode)
            os.utime(fd, (member.mtime, member.mtime))

    def place(self, member: Member) -> tuple[int, str]:
        first, *rest = member.name.split("/")
        if first != ".":
            raise AgentError("bad_archive", f"{member.name!r} does not begin with a dot")

        parts = (self.top, *map(file_name, rest))
        return self.enter(parts[:-1]), parts[-1]

    def enter(self, parts: tuple[str, ...]) -> int:
        if parts == self.folder:
            return self.folder_fd

        fd = os.dup(self.base)
        for part in parts:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            outer = fd
            try:
                fd = os.open(part, flags, dir_fd=outer)
            finally:
                os.close(outer)

        if self.folder:
            os.close(self.folder_fd)

        self.folder, self.folder_fd = parts, fd
        return fd

    def make_directory(self, member: Member) -> None:
        """Until it is filled it is writable, and its mode and time are set when that is done."""
        folder, name = self.place(member)
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode & S_IFMT != S_IFDIR:
                raise
        else:
            self.made.append(((*self.folder, name), member))

    def link(self, member: Member) -> None:
        folder, name = self.place(member)
        remove(name, folder)
        os.symlink(member.link, name, dir_fd=folder)

    def write(self, member: Member, content: Iterator[bytes]) -> None:
        """All of it or nothing: it gets its name when it is complete."""
        folder, name = self.place(member)
        temporary = f".{name[:50]}.banger-{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            for data in content:
                write_all(fd, data)

            os.fchmod(fd, member.mode)
            if member.mtime >= 0:
                os.utime(fd, (member.mtime, member.mtime))

            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            remove(temporary, folder)
            raise
        finally:
            os.close(fd)


def remove(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
