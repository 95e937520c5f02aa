"""tar streams as POSIX.1-2001 (pax) has them: files, directories and symbolic links."""

from __future__ import annotations

import posix as os

from banger.guest.agent.system import decode, encode
from banger.guest.agent.wire import AgentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FILE, SYMLINK, DIRECTORY, PAX = b"0", b"2", b"5", b"x"
BLOCK = 512
MAX_PAX = 1 << 16
COPY_CHUNK = 1 << 18


class Member:
    """One entry of an archive. `name` begins with ".", which is what is copied itself."""

    def __init__(
        self, name: str, kind: bytes, mode: int, size: int = 0, mtime: int = 0, link: str = ""
    ) -> None:
        self.name = name
        self.kind = kind
        self.mode = mode
        self.size = size
        self.mtime = mtime
        self.link = link


def tar_header(member: Member) -> bytes:
    name, link = encode(member.name), encode(member.link)
    records = b""
    if len(name) > 100 or not name.isascii():
        records += pax_record(b"path", name)

    if len(link) > 100 or not link.isascii():
        records += pax_record(b"linkpath", link)

    if member.size >= 8**11:
        records += pax_record(b"size", b"%d" % member.size)

    block = tar_block(member, name, link)
    if not records:
        return block

    extended = Member("pax", PAX, 0o644, len(records))
    return tar_block(extended, b"pax", b"") + records + bytes(-len(records) % BLOCK) + block


def tar_block(member: Member, name: bytes, link: bytes) -> bytes:
    size = member.size if member.size < 8**11 else 0
    mtime = min(max(member.mtime, 0), 8**11 - 1)
    block = bytearray(BLOCK)
    block[:100] = name[:100].ljust(100, b"\0")
    block[100:148] = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (member.mode, 0, 0, size, mtime)
    block[148:156] = b" " * 8
    block[156:157] = member.kind
    block[157:257] = link[:100].ljust(100, b"\0")
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax_record(key: bytes, value: bytes) -> bytes:
    """Length, key and value, where the length counts its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))

    return b"%d" % length + rest


class TarReader:
    """The members of the archive that comes out of `fd`; content not taken is skipped."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.left = 0
        self.padding = 0

    def members(self) -> Iterator[Member]:
        extended: dict[bytes, bytes] = {}
        while True:
            block = self.exactly(BLOCK)
            if not any(block):
                return

            member = parse_header(block, extended)
            if member.kind == PAX:
                extended = pax_records(self.exactly(member.size))
                self.exactly(-member.size % BLOCK)
                continue

            extended = {}
            self.left = member.size
            yield member
            for _ in self.content():
                pass

            self.exactly(-member.size % BLOCK)

    def content(self) -> Iterator[bytes]:
        while self.left:
            data = os.read(self.fd, min(self.left, COPY_CHUNK))
            if not data:
                raise AgentError("bad_archive", "the archive ends too early")

            self.left -= len(data)
            yield data

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = os.read(self.fd, size - len(data))
            if not more:
                raise AgentError("bad_archive", "the archive ends too early")

            data += more

        return data


def parse_header(block: bytes, extended: dict[bytes, bytes]) -> Member:
    if sum(block[:148] + b" " * 8 + block[156:]) != number(block[148:156], 8):
        raise AgentError("bad_archive", "a header's checksum is wrong")

    kind = block[156:157]
    size = number(block[124:136], 8)
    if kind != PAX:
        size = number(extended.get(b"size", b"%d" % size), 10)

    if (kind == PAX and size > MAX_PAX) or (size and kind not in (FILE, PAX)):
        raise AgentError("bad_archive", "a header's size is wrong")

    name = extended.get(b"path", block[:100].rstrip(b"\0"))
    link = extended.get(b"linkpath", block[157:257].rstrip(b"\0"))
    mode, mtime = number(block[100:108], 8) & 0o7777, number(block[136:148], 8)
    return Member(decode(name), kind, mode, size, mtime, decode(link))


def number(text: bytes, base: int) -> int:
    digits = text.strip(b" \0") or b"0"
    try:
        if digits.isdigit():
            return int(digits, base)
    except ValueError:
        pass

    raise AgentError("bad_archive", "a header has a broken number")


def pax_records(data: bytes) -> dict[bytes, bytes]:
    records = {}
    while data:
        digits = data.partition(b" ")[0]
        length = number(digits, 10)
        if not len(digits) + 2 <= length <= len(data):
            raise AgentError("bad_archive", "an extended header is broken")

        key, _, value = data[len(digits) + 1 : length - 1].partition(b"=")
        records[key] = value
        data = data[length:]

    return records
