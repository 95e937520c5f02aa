"""The floor under every restore: the same guest, brought back by hand.

No daemon, no store, no steps: a copy of the empty overlays, QEMU with the command line that banger
gave it, five commands to its monitor, and one request to the agent.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.e2e.harness import Banger, short_directory

from banger.channel.calls import GuestCalls
from banger.channel.serial import SerialChannel, socket_path
from bench.measure import stopwatch
from bench.scene import run_true, warm

_FIELD = re.compile(r"(?<!,),(?!,)")
_PATIENCE = 30.0


class RawGuest:
    """A guest that can be restored by hand, over and over.

    `argv` is how banger has started a clone of it, `spare` a directory for copies of its parts.
    """

    def __init__(self, argv: list[str], spare: Path) -> None:
        self._argv = argv
        self._spare = spare
        self._empties: dict[str, Path] = {}
        self._keep("-initrd")
        memory = next(value for word in argv if (value := _field(word, "mem-path")))
        self._state = Path(memory).with_name("state")
        for number, overlay in enumerate(self._overlays()):
            self._empties[overlay] = _empty_like(overlay, spare / f"empty{number}.qcow2")

    def restore(self) -> float:
        """Seconds from nothing to `true` having run in the restored guest."""
        with stopwatch() as elapsed, self.alive():
            return elapsed()

    def restore_many(self, count: int) -> float:
        """Seconds until `true` has run in `count` of them, all alive by then.

        As many are restored at once as there are processors, which is fastest.
        """
        slots = threading.Semaphore(os.cpu_count() or 1)

        def one() -> ExitStack:
            with slots, ExitStack() as stack:
                stack.enter_context(self.alive())
                return stack.pop_all()

        with ExitStack() as stack, ThreadPoolExecutor(count) as pool, stopwatch() as elapsed:
            for guest in [pool.submit(one) for _ in range(count)]:
                stack.enter_context(guest.result())

            return elapsed()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """The guest, restored and having answered, until the block ends."""
        with short_directory() as directory, ExitStack() as stack:
            process = subprocess.Popen(
                self._command_line(directory),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=(directory / "log").open("wb"),
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            try:
                _load(directory / "qmp.sock", self._state)
            except OSError as error:
                raise SystemExit(f"{error}: {(directory / 'log').read_text()}") from None

            channel = SerialChannel(directory)
            channel.mark_aligned()
            run_true(GuestCalls(channel))
            yield

    def _overlays(self) -> list[str]:
        named = (_field(word, "file.filename") for word in self._argv)
        return [path for path in named if path and path.endswith(".qcow2")]

    def _keep(self, option: str) -> None:
        place = self._argv.index(option) + 1
        kept = self._spare / option.lstrip("-")
        shutil.copy(self._argv[place], kept)
        self._argv[place] = str(kept)

    def _command_line(self, directory: Path) -> list[str]:
        words = [self._moved(word, directory) for word in self._argv]
        words[words.index("-pidfile") + 1] = str(directory / "pid")
        return words

    def _moved(self, word: str, directory: Path) -> str:
        """One word of the command line for a VMM that has its files in `directory`."""
        fields = [part for part in _FIELD.split(word) if not part.startswith("hostfwd=")]
        if fields[0] == "socket":
            name = fields[1].removeprefix("id=")
            number = name.removeprefix("agent")
            path = (
                directory / "qmp.sock" if name == "monitor" else socket_path(directory, int(number))
            )
            fields = [f"path={path}" if part.startswith("fd=") else part for part in fields]
        elif fields[0] == "file":
            fields = [f"path={directory}/console" if _is_path(part) else part for part in fields]
        elif (overlay := _field(word, "file.filename")) in self._empties:
            copy = directory / Path(overlay).name
            shutil.copy(self._empties[overlay], copy)
            fields = [
                f"file.filename={copy}" if part.startswith("file.filename=") else part
                for part in fields
            ]

        return ",".join(fields)


@contextmanager
def raw_guest(*shape: str) -> Iterator[tuple[Banger, RawGuest]]:
    """A warm installation, and the guest of its template to be restored by hand."""
    with warm(*shape) as banger, short_directory() as spare:
        donor = banger.ok("vm", "create", "-q", *shape)
        words = Path(f"/proc/{banger.vm(donor)['pid']}/cmdline").read_bytes().decode().split("\0")
        guest = RawGuest(words[:-1], spare)
        banger.ok("vm", "delete", donor)
        yield banger, guest


class _Monitor:
    """As much of QMP as a restore takes: docs/interop/qmp-spec in QEMU's sources."""

    def __init__(self, path: Path) -> None:
        self._socket = _connect(path)
        self._lines = self._socket.makefile("rb")
        self._lines.readline()

    def __call__(
        self, command: str, arguments: dict[str, Any] | None = None, fd: int = -1
    ) -> dict[str, Any]:
        request = json.dumps({"execute": command, "arguments": arguments or {}}).encode()
        if fd >= 0:
            socket.send_fds(self._socket, [request], [fd])
        else:
            self._socket.sendall(request)

        while True:
            answer = json.loads(self._lines.readline() or b'{"error": "QEMU has ended"}')
            if "error" in answer:
                raise OSError(f"{command}: {answer['error']}")

            if "return" in answer:
                returned: dict[str, Any] = answer["return"]
                return returned


def _load(monitor_path: Path, state: Path) -> None:
    monitor = _Monitor(monitor_path)
    monitor("qmp_capabilities")
    file = os.open(state, os.O_RDONLY)
    monitor("getfd", {"fdname": "state"}, fd=file)
    os.close(file)
    monitor("migrate-incoming", {"uri": "fd:state"})
    while monitor("query-migrate").get("status") != "completed":
        time.sleep(0.001)

    monitor("cont")


def _connect(path: Path) -> socket.socket:
    deadline = time.monotonic() + _PATIENCE
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if time.monotonic() > deadline:
                raise

            time.sleep(0.001)
        else:
            return connection


def _empty_like(overlay: str, out: Path) -> Path:
    """A new overlay of what `overlay` lies over."""
    told = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", overlay], capture_output=True, check=True
    )
    layer = json.loads(told.stdout)
    backing, backing_format = layer["full-backing-filename"], layer["backing-filename-format"]
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", backing_format, out],
        check=True,
    )
    return out


def _field(word: str, name: str) -> str | None:
    for part in _FIELD.split(word):
        if part.startswith(f"{name}="):
            return part.removeprefix(f"{name}=")

    return None


def _is_path(part: str) -> bool:
    return part.startswith("path=")
