"""Files and directories of this host as archives, and archives of a guest's as files.

What a guest sends is written below one name in one directory, whatever it calls itself: each part
of a path is opened without following links, links that lead out of what is copied are left out,
and so are the mode bits that would lend somebody's rights.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.sizes import MIB, format_size
from banger.channel import tar
from banger.channel.requests import printable
from banger.channel.tar import ArchiveEnd, Content, Member, MemberEnd, Type

_CHUNK = 1 << 18
_ZEROS = bytes(_CHUNK)
_MAX_DEPTH = 256
_MAX_NAME = 255
# What a guest must leave free of our disk, and how many files it may make.
_RESERVE = 256 * MIB
_MAX_MEMBERS = 5_000_000
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Note = Callable[[str], None]


def send_tree(path: Path, note: Note) -> Iterator[bytes]:
    """The archive of what is at `path`, as "."; a link at `path` itself is followed.

    `note` hears of what is left out: what is neither file, directory nor link. Raises
    CallerError(copy_refused) if `path` cannot be read, and PermanentError for something below it.
    """
    try:
        yield from _send(path, note)
    except OSError as error:
        raise _failed("read", error) from None

    yield tar.END


def send_file(descriptor: int) -> Iterator[bytes]:
    """What can be read from `descriptor`."""
    while data := os.read(descriptor, _CHUNK):
        yield data


def _send(path: Path, note: Note) -> Iterator[bytes]:
    pending = [(b".", path)]
    while pending:
        name, place = pending.pop()
        status = place.stat(follow_symlinks=name == b".")
        mode, mtime = stat.S_IMODE(status.st_mode), max(0, int(status.st_mtime))
        if stat.S_ISDIR(status.st_mode):
            yield tar.header(Member(name, Type.DIRECTORY, mode, 0, mtime))
            entries = sorted(place.iterdir(), reverse=True)
            pending += [(name + b"/" + os.fsencode(entry.name), entry) for entry in entries]
        elif stat.S_ISREG(status.st_mode):
            yield from _send_content(Member(name, Type.FILE, mode, 0, mtime), place)
        elif stat.S_ISLNK(status.st_mode):
            link = os.fsencode(place.readlink())
            yield tar.header(Member(name, Type.SYMLINK, mode, 0, mtime, link))
        else:
            note(f"left out {printable(str(place))}: neither a file nor a directory")


def _send_content(member: Member, place: Path) -> Iterator[bytes]:
    """Exactly as much as the header says, even of a file that is being written."""
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        left = size = os.fstat(descriptor).st_size
        yield tar.header(member._replace(size=size))
        while left:
            data = os.read(descriptor, min(left, _CHUNK)) or _ZEROS[:left]
            yield data
            left -= len(data)

        yield tar.padding(size)
    finally:
        os.close(descriptor)


def destination(path: Path, name: str) -> tuple[Path, str]:
    """Where a copy goes, as with cp(1): the directory, and the name in it.

    Into `path` as `name` if that is a directory, else to `path` itself. Raises
    CallerError(copy_refused).
    """
    if path.is_dir():
        folder, last = path, name
    else:
        folder, last = path.parent, path.name

    if not folder.is_dir():
        raise _refused(f"there is no directory {folder}")

    if last in ("", ".", "..") or "/" in last:
        raise _refused(f"{last!r} is not a name for a copy")

    return folder, last


class TreeWriter:
    """Writes an archive that comes in pieces to `folder`, as `name`.

    Files get their names when they are complete, so what is there is whole. `note` hears of what is
    left out. Raises PermanentError: copy_refused for what a guest may not do to us, agent_protocol,
    insufficient_disk.
    """

    def __init__(self, folder: Path, name: str, note: Note) -> None:
        self._top = os.fsencode(name)
        self._note = note
        self._parser = tar.Parser()
        self._base = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: list[_Folder] = []
        self._file: _File | None = None
        self._members = 0

    @property
    def complete(self) -> bool:
        return self._parser.ended

    def feed(self, data: bytes) -> None:
        """Take the next piece of the archive."""
        try:
            for event in self._parser.feed(data):
                self._handle(event)
        except tar.TarError as error:
            raise PermanentError(
                ErrorCode.AGENT_PROTOCOL, f"the guest's archive makes no sense: {error}"
            ) from None
        except OSError as error:
            raise _failed("write", error) from None

    def close(self) -> None:
        """Forget what is not complete. May be called more than once."""
        if self._file is not None:
            self._file.discard()
            self._file = None

        while self._open:
            os.close(self._open.pop().descriptor)

        if self._base >= 0:
            os.close(self._base)
            self._base = -1

    def _handle(self, event: tar.TarEvent) -> None:
        if isinstance(event, Member):
            self._begin(event)
        elif isinstance(event, Content) and self._file is not None:
            self._file.write(event.data)
        elif isinstance(event, MemberEnd) and self._file is not None:
            file, self._file = self._file, None
            file.finish()
        elif isinstance(event, ArchiveEnd):
            self._leave(0)

    def _begin(self, member: Member) -> None:
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise _hostile(f"the guest sends more than {_MAX_MEMBERS} files")

        parts = self._parts(member.name)
        parent = self._enter(parts[:-1])
        if member.type is Type.DIRECTORY:
            self._make_directory(parent, parts[-1], member)
        elif member.type is Type.SYMLINK:
            self._link(parent, parts[-1], member, depth=len(parts) - 2)
        else:
            self._check_room(member.size)
            self._file = _File(parent, parts[-1], member)

    def _parts(self, name: bytes) -> list[bytes]:
        first, *rest = name.split(b"/")
        wrong = [part for part in rest if part in (b"", b".", b"..") or len(part) > _MAX_NAME]
        if first != b"." or wrong or len(rest) > _MAX_DEPTH:
            raise _hostile(f"the guest sends a file called {_shown(name)}")

        return [self._top, *rest]

    def _enter(self, parts: list[bytes]) -> int:
        """The directory at `parts` as a descriptor; those it is not in are done with."""
        common = 0
        for part, folder in zip(parts, self._open, strict=False):
            if part != folder.name:
                break

            common += 1

        self._leave(common)
        for part in parts[common:]:
            descriptor = os.open(part, _DIRECTORY_FLAGS, dir_fd=self._current())
            self._open.append(_Folder(part, descriptor, None))

        return self._current()

    def _current(self) -> int:
        return self._open[-1].descriptor if self._open else self._base

    def _leave(self, depth: int) -> None:
        while len(self._open) > depth:
            self._open.pop().finish()

    def _make_directory(self, parent: int, name: bytes, member: Member) -> None:
        """Its mode and time are set when it has been filled. Those of one that exists stay."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            settings = member
        except FileExistsError:
            settings = None

        descriptor = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
        self._open.append(_Folder(name, descriptor, settings))

    def _link(self, parent: int, name: bytes, member: Member, depth: int) -> None:
        if not stays_inside(member.link, depth):
            self._note(
                f"left out the link {_shown(member.name)}: "
                f"{_shown(member.link)} leads out of what is copied"
            )
            return

        _unlink(name, parent)
        os.symlink(member.link, name, dir_fd=parent)

    def _check_room(self, size: int) -> None:
        status = os.fstatvfs(self._base)
        free = status.f_bavail * status.f_frsize
        if size > free - _RESERVE:
            raise PermanentError(
                ErrorCode.INSUFFICIENT_DISK,
                f"a file of {format_size(size)} does not fit: {format_size(free)} are free, and "
                f"{format_size(_RESERVE)} of them stay so",
                hint="make room, or copy to another disk",
            )


def stays_inside(target: bytes, depth: int) -> bool:
    """Whether a link in a directory `depth` below the top cannot lead out of it.

    All the ways up must come first: behind the name of another link they would start from where
    that leads.
    """
    if not target or target.startswith(b"/"):
        return False

    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    ups = next((index for index, part in enumerate(parts) if part != b".."), len(parts))
    return ups <= depth and b".." not in parts[ups:]


class _Folder:
    def __init__(self, name: bytes, descriptor: int, settings: Member | None) -> None:
        self.name = name
        self.descriptor = descriptor
        self._settings = settings

    def finish(self) -> None:
        try:
            if self._settings is not None:
                _settle(self.descriptor, self._settings)
        finally:
            os.close(self.descriptor)


class _File:
    """A file that is being written under another name."""

    def __init__(self, folder: int, name: bytes, member: Member) -> None:
        self._folder = os.dup(folder)
        self._name = name
        self._member = member
        self._temporary = b".banger-" + os.urandom(8).hex().encode()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._temporary, flags, 0o600, dir_fd=self._folder)
        except BaseException:
            os.close(self._folder)
            raise

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def finish(self) -> None:
        _settle(self._descriptor, self._member)
        try:
            os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except BaseException:
            self.discard()
            raise

        self._close()

    def discard(self) -> None:
        _unlink(self._temporary, self._folder)
        self._close()

    def _close(self) -> None:
        os.close(self._descriptor)
        os.close(self._folder)


def _settle(descriptor: int, member: Member) -> None:
    os.fchmod(descriptor, member.mode & 0o777)
    os.utime(descriptor, (member.mtime, member.mtime))


def _unlink(name: bytes, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def _shown(name: bytes) -> str:
    return repr(printable(os.fsdecode(name), 200))


def _refused(message: str) -> CallerError:
    return CallerError(ErrorCode.COPY_REFUSED, message)


def _hostile(message: str) -> PermanentError:
    return PermanentError(
        ErrorCode.COPY_REFUSED, message, hint="the guest may mean harm: look at what it has there"
    )


def _failed(verb: str, error: OSError) -> PermanentError:
    name = error.filename
    shown = _shown(name) if isinstance(name, bytes) else str(name or "the copy")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PermanentError(
            ErrorCode.INSUFFICIENT_DISK, f"cannot write {shown}: {error.strerror}"
        )

    return PermanentError(ErrorCode.COPY_REFUSED, f"cannot {verb} {shown}: {error.strerror}")
