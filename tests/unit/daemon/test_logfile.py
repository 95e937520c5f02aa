"""Reading a console log: its end, what comes later, and files that shrink, vanish or come late."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.daemon.routes import logfile
from banger.daemon.routes.logfile import read_log

lines = st.lists(st.binary(max_size=5).map(lambda line: line.replace(b"\n", b"")), max_size=30)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(logfile, "POLL_SECONDS", 0.001)
    directory = tmp_path / "vm"
    directory.mkdir()
    return directory / "console.log"


async def take(stream: AsyncIterator[bytes], size: int) -> bytes:
    taken = b""
    while len(taken) < size:
        taken += await anext(stream)

    return taken


async def whole(path: Path, tail: int | None = None) -> bytes:
    return b"".join([piece async for piece in read_log(path, tail=tail)])


@given(
    lines=lines, unfinished=st.binary(max_size=5), tail=st.integers(0, 40), block=st.integers(1, 9)
)
async def test_a_tail_is_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    unfinished: bytes,
    tail: int,
    block: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "tail.log"
    content = b"".join(line + b"\n" for line in lines) + unfinished
    put(path, content)
    kept = split(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logfile, "_BLOCK", block)
        assert await whole(path, tail) == b"".join(kept[len(kept) - min(tail, len(kept)) :])
        assert await whole(path) == content


def split(content: bytes) -> list[bytes]:
    # Unlike splitlines(), a carriage return ends no line.
    *ended, rest = content.split(b"\n")
    return [line + b"\n" for line in ended] + ([rest] if rest else [])


async def test_a_missing_log_is_empty(log: Path) -> None:
    assert await whole(log) == b""
    assert await whole(log, tail=3) == b""


async def test_what_is_appended_is_followed(log: Path) -> None:
    put(log, b"one\ntwo\n")
    stream = read_log(log, tail=1, follow=True)
    assert await take(stream, 4) == b"two\n"
    append(log, b"three\n")
    assert await take(stream, 6) == b"three\n"


async def test_a_log_that_comes_later_is_waited_for(log: Path) -> None:
    stream = read_log(log, follow=True)
    waiting = asyncio.create_task(take(stream, 4))
    await asyncio.sleep(0.01)
    put(log, b"one\n")
    assert await waiting == b"one\n"


async def test_a_truncated_log_is_read_from_its_start(log: Path) -> None:
    put(log, b"a long line\n")
    stream = read_log(log, follow=True)
    assert await take(stream, 12) == b"a long line\n"
    put(log, b"new\n")
    assert await take(stream, 4) == b"new\n"


async def test_a_replaced_log_is_read_from_its_start(log: Path, tmp_path: Path) -> None:
    put(log, b"one\n")
    stream = read_log(log, follow=True)
    assert await take(stream, 4) == b"one\n"
    (tmp_path / "next").write_bytes(b"another, longer\n")
    (tmp_path / "next").rename(log)
    assert await take(stream, 16) == b"another, longer\n"


async def test_following_ends_when_the_vm_is_gone(log: Path) -> None:
    put(log, b"one\n")
    stream = read_log(log, follow=True)
    assert await take(stream, 4) == b"one\n"
    shutil.rmtree(log.parent)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
