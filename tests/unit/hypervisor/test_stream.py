"""What is made of a stream of QEMU's, which a guest may have had its hands in."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import ErrorCode, PermanentError
from banger.hypervisor.base import MemoryImage
from banger.hypervisor.qemu.stream import convert

PAGE = 4096
RAM, ROM = "ram0", "rom@x"
DEVICES = b"\x04devices\x00and their description"


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def name(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


@dataclass
class Stream:
    """A stream as QEMU writes it, for a memory of `pages` pages and a ROM of one."""

    pages: int
    number: int = 2
    sections: list[list[bytes]] = field(default_factory=lambda: [[]])
    _block: str = ""

    def page(self, at: int, content: bytes | None, block: str = RAM) -> None:
        """A page of `block`; empty without `content`."""
        flags = 0x02 if content is None else 0x08
        named = b"" if block == self._block else name(block)
        self._block = block
        word = u64(at * PAGE | flags | (0 if named else 0x20))
        self.sections[-1].append(word + named + (content or b"\0"))

    def end_section(self) -> None:
        self.sections.append([])

    def head(self) -> bytes:
        sizes = name(RAM) + u64(self.pages * PAGE) + name(ROM) + u64(PAGE)
        start = b"\x01" + u32(self.number) + name("ram") + u32(0) + u32(4)
        total = u64((self.pages + 1) * PAGE | 0x04)
        return b"QEVM" + u32(3) + b"\x07" + u32(5) + b"micro" + start + total + sizes + u64(0x10)

    def footer(self) -> bytes:
        return b"\x7e" + u32(self.number)

    def all(self) -> bytes:
        text = self.head() + self.footer()
        for index, pages in enumerate(self.sections):
            last = index == len(self.sections) - 1
            text += (b"\x03" if last else b"\x02") + u32(self.number)
            text += b"".join(pages) + u64(0x10) + self.footer()

        return text + DEVICES


def made(home: Path, stream: bytes) -> MemoryImage:
    (home / "stream").write_bytes(stream)
    image = MemoryImage(directory=home / "out")
    convert(home / "stream", image, RAM)
    return image


def refused(home: Path, stream: bytes) -> None:
    with pytest.raises(PermanentError) as raised:
        made(home, stream)

    assert raised.value.code is ErrorCode.SAVE_FAILED
    assert not (home / "out").exists()


def test_pages_go_to_memory_and_all_else_to_the_state(tmp_path: Path) -> None:
    stream = Stream(pages=8)
    stream.page(0, None)
    stream.page(1, b"a" * PAGE)
    stream.page(0, b"r" * PAGE, block=ROM)
    stream.end_section()
    stream.page(2, b"b" * PAGE)
    stream.page(3, None)
    stream.page(7, b"c" * PAGE)

    image = made(tmp_path, stream.all())

    rest = Stream(pages=8)
    rest.page(0, b"r" * PAGE, block=ROM)
    rest.end_section()
    pages = {1: b"a", 2: b"b", 7: b"c"}
    memory = b"".join(pages.get(number, b"\0") * PAGE for number in range(8))
    assert image.memory.read_bytes() == memory
    assert image.state.read_bytes() == rest.all()
    assert image.directory.stat().st_mode & 0o777 == 0o700


def test_a_page_that_comes_twice_is_what_it_was_last(tmp_path: Path) -> None:
    stream = Stream(pages=4)
    for content in (b"a", b"b"):
        stream.page(1, content * PAGE)

    stream.page(3, b"d" * PAGE)
    stream.page(2, None)
    stream.page(3, None)
    stream.page(0, b"c" * PAGE)

    memory = made(tmp_path, stream.all()).memory.read_bytes()

    assert memory == b"c" * PAGE + b"b" * PAGE + bytes(2 * PAGE)


@given(
    pages=st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=40),
    cuts=st.sets(st.integers(0, 40)),
)
def test_memory_is_what_the_pages_say(
    tmp_path_factory: pytest.TempPathFactory, pages: list[tuple[int, bool]], cuts: set[int]
) -> None:
    stream, expected = Stream(pages=201), bytearray(201 * PAGE)
    for index, (at, filled) in enumerate(pages):
        content = bytes([index + 1]) * PAGE if filled else None
        stream.page(at, content)
        expected[at * PAGE : (at + 1) * PAGE] = content or bytes(PAGE)
        if index in cuts:
            stream.end_section()

    image = made(tmp_path_factory.mktemp("stream"), stream.all())

    assert image.memory.read_bytes() == expected


def test_a_long_run_of_pages_is_written_whole(tmp_path: Path) -> None:
    stream = Stream(pages=2500)
    for number in range(2500):
        stream.page(number, struct.pack(">I", number) * (PAGE // 4))

    memory = made(tmp_path, stream.all()).memory.read_bytes()

    assert memory == b"".join(struct.pack(">I", n) * (PAGE // 4) for n in range(2500))


@given(st.integers(0, 9000), st.binary(max_size=8))
def test_a_stream_that_is_damaged_is_refused_or_something_else_but_never_worse(
    tmp_path_factory: pytest.TempPathFactory, at: int, damage: bytes
) -> None:
    stream = Stream(pages=4)
    stream.page(0, b"a" * PAGE)
    stream.page(1, None)
    stream.page(3, b"b" * PAGE)
    text = stream.all()
    at = min(at, len(text))
    home = tmp_path_factory.mktemp("stream")

    try:
        image = made(home, text[:at] + damage + text[at + len(damage) :])
    except PermanentError:
        assert not (home / "out").exists()
    else:
        assert image.memory.stat().st_blocks * 512 <= 4 * PAGE


@given(st.integers(0, 8000))
def test_a_stream_that_is_cut_short_within_memory_is_refused(
    tmp_path_factory: pytest.TempPathFactory, length: int
) -> None:
    stream = Stream(pages=4)
    stream.page(0, b"a" * PAGE)
    stream.page(3, b"b" * PAGE)

    refused(tmp_path_factory.mktemp("stream"), stream.all()[:length])


@pytest.mark.parametrize("at", [4, 5, 1 << 40])
def test_a_page_outside_of_memory_is_refused(tmp_path: Path, at: int) -> None:
    stream = Stream(pages=4)
    stream.page(3, b"a" * PAGE)
    stream.page(at, b"a" * PAGE)

    refused(tmp_path, stream.all())


@pytest.mark.parametrize("size", [0, 1 << 44, 1 << 63])
def test_memory_of_a_size_nobody_has_is_refused(tmp_path: Path, size: int) -> None:
    stream = Stream(pages=4).all()

    refused(tmp_path, stream.replace(name(RAM) + u64(4 * PAGE), name(RAM) + u64(size)))


def test_a_stream_without_that_memory_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, Stream(pages=4).all().replace(name(RAM), name("ram1")))


def test_an_image_that_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    with pytest.raises(FileExistsError):
        made(tmp_path, Stream(pages=1).all())

    assert (tmp_path / "out").exists()
