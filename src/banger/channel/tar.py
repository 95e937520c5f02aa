"""tar archives as POSIX.1-2001 (pax) describes them: files, directories and symbolic links.

Only what banger and its agent write themselves is read; everything else is refused. There are no
hard links, no devices, no owners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple

BLOCK = 512
MAX_PAX = 1 << 16
MAX_PATH = 4096
# As much as a file of any of Linux's file systems can hold.
MAX_SIZE = 1 << 63

_OCTAL_SIZE = 8**11


class TarError(Exception):
    """The bytes are no archive that banger reads."""


class Type(Enum):
    """What a member is, by the type flag of its header."""

    FILE = b"0"
    SYMLINK = b"2"
    DIRECTORY = b"5"


class Member(NamedTuple):
    """One entry: `name` is its path, `mtime` in seconds, `link` the target of a symbolic link."""

    name: bytes
    type: Type
    mode: int
    size: int = 0
    mtime: int = 0
    link: bytes = b""


class Content(NamedTuple):
    """The next piece of the content of the file that was announced last."""

    data: bytes


class MemberEnd(NamedTuple):
    """The member announced last is complete."""


class ArchiveEnd(NamedTuple):
    """The archive is complete; what follows is not looked at."""


TarEvent = Member | Content | MemberEnd | ArchiveEnd

END = bytes(2 * BLOCK)


def header(member: Member) -> bytes:
    """What comes before the content of `member`; that is padded to whole blocks of 512 bytes."""
    records = b""
    if len(member.name) > 100 or not member.name.isascii():
        records += _record(b"path", member.name)

    if len(member.link) > 100 or not member.link.isascii():
        records += _record(b"linkpath", member.link)

    if member.size >= _OCTAL_SIZE:
        records += _record(b"size", b"%d" % member.size)

    block = _block(member, member.type.value)
    if not records:
        return block

    extended = _block(Member(b"pax", Type.FILE, 0o644, len(records)), b"x")
    return extended + records + padding(len(records)) + block


def padding(size: int) -> bytes:
    """What fills the last block of `size` bytes."""
    return bytes(-size % BLOCK)


class Parser:
    """Takes an archive in pieces of any size and says what is in it. Holds 64 KiB at most."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._extended: dict[bytes, bytes] = {}
        self._pax_size = 0
        self._left = 0
        self._padding = 0
        self._step = self._on_header
        self._needed = BLOCK
        self.ended = False

    def feed(self, data: bytes) -> Iterator[TarEvent]:
        """Raises TarError."""
        self._buffer += data
        while not self.ended and len(self._buffer) >= self._needed:
            yield from self._step()

    def _expect(self, step: Callable[[], Iterator[TarEvent]], needed: int) -> None:
        self._step, self._needed = step, needed

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _on_header(self) -> Iterator[TarEvent]:
        block = self._take(BLOCK)
        if not any(block):
            self.ended = True
            yield ArchiveEnd()
            return

        if sum(block[:148]) + sum(block[156:]) + 8 * 32 != _number(block[148:156], 8):
            raise TarError("the checksum of a header is wrong")

        size = _number(block[124:136], 8)
        if block[156:157] == b"x":
            if size > MAX_PAX or self._extended:
                raise TarError("an extended header is too long, or the second in a row")

            self._pax_size = size
            self._expect(self._on_extended, size + len(padding(size)))
            return

        member = self._member(block, size)
        self._extended = {}
        self._left, self._padding = member.size, len(padding(member.size))
        self._expect(self._on_content, min(self._left, 1))
        yield member

    def _on_extended(self) -> Iterator[TarEvent]:
        self._extended = _records(self._take(self._needed)[: self._pax_size])
        self._expect(self._on_header, BLOCK)
        return iter(())

    def _on_content(self) -> Iterator[TarEvent]:
        data = self._take(self._left)
        self._left -= len(data)
        if data:
            yield Content(data)

        if not self._left:
            self._expect(self._on_padding, self._padding)
            yield MemberEnd()

    def _on_padding(self) -> Iterator[TarEvent]:
        self._take(self._needed)
        self._expect(self._on_header, BLOCK)
        return iter(())

    def _member(self, block: bytes, size: int) -> Member:
        try:
            kind = Type(block[156:157])
        except ValueError:
            raise TarError(f"a member is of type {block[156:157]!r}") from None

        size = _number(self._extended.get(b"size", b"%d" % size), 10)
        name = self._extended.get(b"path", block[:100].rstrip(b"\0"))
        link = self._extended.get(b"linkpath", block[157:257].rstrip(b"\0"))
        if size >= MAX_SIZE or (size and kind is not Type.FILE):
            raise TarError("a member cannot have the size it says")

        if not 0 < len(name) <= MAX_PATH or len(link) > MAX_PATH or b"\0" in name + link:
            raise TarError("a member cannot have the name it says")

        mode, mtime = _number(block[100:108], 8) & 0o7777, _number(block[136:148], 8)
        return Member(name, kind, mode, size, mtime, link if kind is Type.SYMLINK else b"")


def _block(member: Member, kind: bytes) -> bytes:
    size = member.size if member.size < _OCTAL_SIZE else 0
    mtime = min(max(member.mtime, 0), _OCTAL_SIZE - 1)
    block = bytearray(BLOCK)
    block[:100] = member.name[:100].ljust(100, b"\0")
    block[100:148] = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (member.mode, 0, 0, size, mtime)
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157:257] = member.link[:100].ljust(100, b"\0")
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _record(key: bytes, value: bytes) -> bytes:
    """Length, key and value, where the length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))

    return b"%d" % length + rest


def _records(data: bytes) -> dict[bytes, bytes]:
    records = {}
    while data:
        digits = data[:8].partition(b" ")[0]
        length = _number(digits, 10)
        if not len(digits) + 3 <= length <= len(data) or data[length - 1 : length] != b"\n":
            raise TarError("an extended header is broken")

        key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not equals:
            raise TarError("an extended header is broken")

        records[key] = value
        data = data[length:]

    return records


def _number(text: bytes, base: int) -> int:
    digits = text.strip(b" \0") or b"0"
    # int() is more generous: signs, underscores.
    if len(digits) > 19 or not digits.isdigit():
        raise TarError("a header has a broken number")

    try:
        return int(digits, base)
    except ValueError:
        raise TarError("a header has a broken number") from None
