"""QEMU's end of a monitor, played by a test: what it is told, and what it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any


class ScriptedVmm:
    """A monitor that answers what `answers` has, and leaves other commands to the test.

    `commands` are those that were not answered by themselves.
    """

    def __init__(self) -> None:
        self.commands: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.connected = asyncio.Event()
        self.answers: dict[str, object] = {"qmp_capabilities": {}}
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    @asynccontextmanager
    async def serving(cls, path: Path) -> AsyncIterator[ScriptedVmm]:
        """One that listens at `path`."""
        vmm = cls()
        server = await asyncio.start_unix_server(vmm._accept, path)
        try:
            yield vmm
        finally:
            server.close()
            vmm.hang_up()

    async def asked(self, name: str) -> dict[str, Any]:
        """The next command, which is `name`."""
        command = await self.commands.get()
        assert command["execute"] == name
        return command

    def say(self, message: object) -> None:
        self.say_raw(json.dumps(message).encode() + b"\r\n")

    def say_raw(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    def answer(self, command: dict[str, Any], result: object) -> None:
        self.say({"return": result, "id": command["id"]})

    def hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.say({"QMP": {"version": {}, "capabilities": []}})
        self.connected.set()
        async for line in reader:
            command = json.loads(line)
            if command["execute"] in self.answers:
                self.answer(command, self.answers[command["execute"]])
            else:
                await self.commands.put(command)

        writer.close()
