"""Programs are found, run to their end, and gone when their caller is."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from banger.api.errors import ErrorCode, PermanentError
from banger.host.process import alive, reference
from banger.host.runner import locate, run
from banger.host.threads import in_thread


async def test_output_and_status_are_returned() -> None:
    result = await run(["sh", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (result.status, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert result.complaint() == "err"


async def test_input_reaches_the_program() -> None:
    assert (await run(["cat"], stdin=b"data")).stdout == b"data"


async def test_failure_is_an_error_with_the_last_line() -> None:
    with pytest.raises(PermanentError, match="sh failed: second") as refusal:
        await run(["sh", "-c", "echo first >&2; echo second >&2; exit 1"])
    assert refusal.value.code is ErrorCode.TOOL_FAILED


async def test_no_such_program_is_an_error_with_advice() -> None:
    with pytest.raises(PermanentError, match="no-such-program is not installed") as refusal:
        await run(["no-such-program"])
    assert refusal.value.code is ErrorCode.TOOL_MISSING
    assert refusal.value.hint


async def test_a_full_disk_is_not_just_any_failure() -> None:
    with pytest.raises(PermanentError, match="running dd") as refusal:
        await run(["dd", "if=/dev/zero", "of=/dev/full", "count=1"])
    assert refusal.value.code is ErrorCode.INSUFFICIENT_DISK


async def test_messages_are_english_and_the_environment_is_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("BANGER_TEST", "seen")
    assert (await run(["sh", "-c", "echo $LC_ALL $BANGER_TEST"])).text == "C.UTF-8 seen\n"


async def test_system_programs_are_found_without_their_directory_in_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = locate("mke2fs")
    assert found is not None
    assert Path(found).parent.name == "sbin"


def test_path_comes_first(tmp_path: Path) -> None:
    (tmp_path / "mke2fs").write_text("#!/bin/sh\n")
    assert locate("mke2fs", str(tmp_path)) != str(tmp_path / "mke2fs")
    (tmp_path / "mke2fs").chmod(0o755)
    assert locate("mke2fs", str(tmp_path)) == str(tmp_path / "mke2fs")


async def test_a_program_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! >{tmp_path}/pid; wait"
    with pytest.raises(PermanentError, match="did not finish"):
        await run(["sh", "-c", script], timeout=2.0)
    assert reference(int((tmp_path / "pid").read_text())) is None


async def test_a_cancelled_caller_leaves_no_program(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")
    task = asyncio.create_task(run(["sh", "-c", f"echo $$ >{tmp_path}/started; exec sleep 1000"]))
    pid = int(await asyncio.to_thread((tmp_path / "started").read_text))
    process = reference(pid)
    assert process is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(process)


async def test_a_cancelled_caller_resumes_after_its_thread() -> None:
    loop = asyncio.get_running_loop()
    started, release = asyncio.Event(), asyncio.Event()
    steps: list[str] = []

    def work() -> None:
        loop.call_soon_threadsafe(started.set)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        steps.append("worked")

    async def caller() -> None:
        try:
            await in_thread(work)
        finally:
            steps.append("cleaned up")

    task = asyncio.create_task(caller())
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["worked", "cleaned up"]
