"""A process is its pid and its start time; a pid alone is nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from banger.host.process import ProcessRef, alive, on_exit, reference, send_signal


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def two_threads() -> Iterator[subprocess.Popen[bytes]]:
    """Its first thread ends alone (exit(2) is system call 60) while the other goes on."""
    program = (
        "import ctypes, sys, threading\n"
        "threading.Thread(target=sys.stdin.read).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def of(child: subprocess.Popen[bytes]) -> ProcessRef:
    found = reference(child.pid)
    assert found is not None
    return found


def test_this_process_is_alive() -> None:
    mine = reference(os.getpid())
    assert mine is not None
    assert alive(mine)


def test_another_start_time_is_another_process(child: subprocess.Popen[bytes]) -> None:
    other = msgspec.structs.replace(of(child), start_time=1)
    assert not alive(other)
    assert not send_signal(other, signal.SIGKILL)
    assert alive(of(child))


def test_a_zombie_is_dead(child: subprocess.Popen[bytes]) -> None:
    process = of(child)
    assert send_signal(process, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not alive(process)
    assert not send_signal(process, signal.SIGKILL)


def test_nobody_has_a_pid_beyond_the_maximum() -> None:
    assert reference(2**22 + 1) is None
    assert not send_signal(ProcessRef(pid=2**22 + 1, start_time=1), signal.SIGKILL)


def test_a_name_with_parentheses_and_spaces_confuses_nobody(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "1000"]) as process:
        found = reference(process.pid)
        process.kill()
    assert found is not None
    assert found.pid == process.pid


async def test_an_end_is_told_once(child: subprocess.Popen[bytes]) -> None:
    ended = asyncio.Event()
    on_exit(of(child), ended.set)
    await asyncio.sleep(0)
    assert not ended.is_set()
    child.kill()
    await ended.wait()


async def test_an_end_is_the_end_of_the_last_thread(
    two_threads: subprocess.Popen[bytes],
) -> None:
    process = of(two_threads)
    while alive(process):  # noqa: ASYNC110, nobody tells of it
        await asyncio.sleep(0.01)

    ended = asyncio.Event()
    on_exit(process, ended.set)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ended.wait(), 0.05)

    two_threads.kill()
    await ended.wait()


async def test_an_end_that_was_before_is_told_too(child: subprocess.Popen[bytes]) -> None:
    process = of(child)
    child.kill()
    child.wait()
    ended = asyncio.Event()
    on_exit(process, ended.set)
    await ended.wait()


async def test_a_watch_that_was_taken_back_tells_nothing(child: subprocess.Popen[bytes]) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    take_back = on_exit(of(child), first.set)
    on_exit(of(child), second.set)
    take_back()
    take_back()
    child.kill()
    await second.wait()
    assert not first.is_set()
