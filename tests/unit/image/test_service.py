"""Building in a service: the real protocol over a real socket, with a process for each request."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.image import samples
from tests.unit.image.scripted_service import IMAGE

from banger.api.errors import BangerError, ErrorCode, PermanentError, TransientError
from banger.host.paths import ensure_private
from banger.image.build import works
from banger.image.builder import ServiceBuilder
from banger.image.recipe import parse_recipe

RECIPE = parse_recipe('name = "tiny"')
SECONDS = 30.0
News = list[tuple[str, str | None]]


class Listener:
    """What systemd does: for every connection a process, whose standard streams it is."""

    def __init__(self, root: Path) -> None:
        self.paths = samples.paths_below(root)
        self.notes = root / "notes"
        self.notes.touch()
        self.builder = ServiceBuilder(self.paths, root / "build.sock")
        self.processes: list[subprocess.Popen[bytes]] = []
        self._thread: threading.Thread | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(root / "build.sock"))
        self._socket.listen()

    def serve(self, *argv: str) -> None:
        """Answer one connection with `argv`."""
        self._thread = threading.Thread(target=self._accept, args=(argv,))
        self._thread.start()

    def _accept(self, argv: tuple[str, ...]) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return

        with connection:
            descriptor = connection.fileno()
            self.processes.append(
                subprocess.Popen(argv, stdin=descriptor, stdout=descriptor, stderr=descriptor)
            )

    def serve_scripted(self, mode: str) -> None:
        module = "tests.unit.image.scripted_service"
        self.serve(sys.executable, "-m", module, mode, str(self.notes))

    def close(self) -> None:
        # Wakes a thread that still waits for a connection.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._thread is not None:
            self._thread.join()

        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with contextlib.closing(Listener(tmp_path)) as listener:
        yield listener


async def noted(listener: Listener, words: str) -> None:
    async with asyncio.timeout(SECONDS):
        while listener.notes.read_text() != words:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)


async def test_an_image_is_built_and_its_stages_are_told(listener: Listener) -> None:
    news: News = []
    listener.serve_scripted("succeed")
    assert await listener.builder.build(RECIPE, lambda *told: news.append(told)) == IMAGE
    assert news == [("resolve packages", None), ("resolve packages", "for tiny")]
    assert listener.processes[0].wait(SECONDS) == 0


async def test_what_tools_print_is_no_answer_but_in_the_log(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    listener.serve_scripted("succeed")
    await listener.builder.build(RECIPE, ignore)
    assert "a tool's own words" in caplog.text
    assert 'tools: building failed:\n{"image": null}' in caplog.text


async def test_a_failure_is_the_one_that_it_would_be_here(listener: Listener) -> None:
    listener.serve_scripted("fail")
    with pytest.raises(TransientError, match="no network") as raised:
        await listener.builder.build(RECIPE, ignore)

    assert (raised.value.code, raised.value.hint) == (ErrorCode.IMAGE_BUILD_FAILED, "check it")


async def test_what_nobody_foresaw_is_one_line_and_a_traceback_in_the_log(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    listener.serve_scripted("break")
    with pytest.raises(PermanentError, match="could not be built: not on purpose"):
        await listener.builder.build(RECIPE, ignore)

    assert "ValueError: not on purpose" in caplog.text


async def test_a_service_that_dies_is_a_failure_with_its_last_words(listener: Listener) -> None:
    last_words = "read line; echo 'the roof is on fire' >&2"
    listener.serve("sh", "-c", f"echo '{{\"ready\": true}}'; {last_words}")
    with pytest.raises(PermanentError, match="the roof is on fire") as raised:
        await listener.builder.build(RECIPE, ignore)

    assert "journalctl" in (raised.value.hint or "")


async def test_a_user_who_gets_no_namespace_is_told_how_to_allow_it(listener: Listener) -> None:
    # Without having read what it is asked.
    listener.serve("sh", "-c", "echo 'unshare: no line matching user \"x\" in /etc/subuid' >&2")
    with pytest.raises(PermanentError) as raised:
        await listener.builder.build(RECIPE, ignore)

    assert raised.value.code is ErrorCode.UNSUPPORTED_HOST
    assert "--add-subuids" in (raised.value.hint or "")


async def test_a_build_that_is_called_off_has_cleaned_up_when_it_is_over(
    listener: Listener,
) -> None:
    listener.serve_scripted("hang")
    build = asyncio.create_task(listener.builder.build(RECIPE, ignore))
    await noted(listener, "began")
    build.cancel()
    with pytest.raises(asyncio.CancelledError):
        await build

    assert listener.notes.read_text() == "cleaned up"


async def test_a_service_that_is_stopped_cleans_up_too(listener: Listener) -> None:
    listener.serve_scripted("hang")
    build = asyncio.create_task(listener.builder.build(RECIPE, ignore))
    await noted(listener, "began")
    listener.processes[0].send_signal(signal.SIGTERM)
    with pytest.raises(BangerError, match="ended before the build did"):
        await build

    assert listener.notes.read_text() == "cleaned up"


async def test_the_service_is_asked_to_sweep_only_what_it_made(listener: Listener) -> None:
    await listener.builder.sweep()
    assert listener.processes == []

    ensure_private(works(listener.paths.cache) / "build-dead")
    listener.serve_scripted("sweep")
    await listener.builder.sweep()
    assert listener.notes.read_text() == "swept"


async def test_without_a_service_it_is_said_what_to_restart(tmp_path: Path) -> None:
    builder = ServiceBuilder(samples.paths_below(tmp_path), tmp_path / "none")
    with pytest.raises(PermanentError) as raised:
        await builder.build(RECIPE, ignore)

    assert "systemctl" in (raised.value.hint or "")


def ignore(stage: str, detail: str | None) -> None:
    del stage, detail
