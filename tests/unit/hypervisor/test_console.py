"""Console logs stay small while somebody writes and somebody follows them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.unit.hypervisor.waiting import until

from banger.hypervisor import console
from banger.hypervisor.console import Bounds, shorten


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


def size(log: Path) -> int:
    return log.stat().st_size


def fill(log: Path) -> None:
    """Make `log` one byte too long."""
    with log.open("ab") as writer:
        writer.truncate(0)
        writer.write(bytes(console.LIMIT + 1))


def test_a_short_log_is_left_alone(log: Path) -> None:
    log.write_bytes(b"x" * 100)

    assert not shorten(log, limit=100, keep=10)
    assert log.read_bytes() == b"x" * 100


def test_a_log_that_is_not_there_is_no_error(log: Path) -> None:
    assert not shorten(log, limit=100, keep=10)


def test_a_long_log_starts_anew_and_its_end_is_kept(log: Path) -> None:
    log.write_bytes(b"x" * 100 + b"the end")

    assert shorten(log, limit=100, keep=7)

    assert log.read_bytes() == b""
    previous = log.with_name("console.log.1")
    assert previous.read_bytes() == b"the end"
    assert previous.stat().st_mode & 0o777 == 0o600


def test_the_writer_goes_on_at_the_new_end(log: Path) -> None:
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 101)
        shorten(log, limit=100, keep=10)
        writer.write(b"more")

    assert log.read_bytes() == b"more"


def test_a_follower_sees_the_file_shrink_and_stays_on_it(log: Path) -> None:
    log.write_bytes(b"x" * 101)
    with log.open("rb") as follower:
        follower.seek(0, os.SEEK_END)
        shorten(log, limit=100, keep=10)

        assert os.fstat(follower.fileno()).st_ino == log.stat().st_ino
        assert os.fstat(follower.fileno()).st_size < follower.tell()


def test_room_is_made_even_when_the_end_cannot_be_kept(log: Path) -> None:
    log.write_bytes(b"x" * 101)
    log.with_name("console.log.1").mkdir()

    assert shorten(log, limit=100, keep=10)
    assert log.read_bytes() == b""


def test_a_log_that_only_looks_long_is_left_alone(log: Path) -> None:
    log.touch()
    os.truncate(log, console.LIMIT + 1)

    assert not shorten(log)


async def test_logs_are_kept_short_until_they_are_let_go(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "SECONDS", 0.0)
    bounds = Bounds()
    bounds.add(1, log)

    fill(log)
    await until(lambda: size(log) == 0)

    bounds.remove(1)
    fill(log)
    for _ in range(10):
        await asyncio.sleep(0)

    assert size(log) == console.LIMIT + 1
    bounds.close()


async def test_a_log_that_is_too_long_already_is_not_waited_for(log: Path) -> None:
    fill(log)
    bounds = Bounds()

    bounds.add(1, log)

    assert size(log) == 0
    bounds.close()
