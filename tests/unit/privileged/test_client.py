"""What the daemon makes of the helper's answers, of none, and of a helper that is not there."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import banger
from banger.api.errors import (
    BangerError,
    CallerError,
    ErrorCode,
    OutcomeUnknown,
    PermanentError,
    TransientError,
)
from banger.privileged.base import PrivilegedOps
from banger.privileged.client import RootClient
from banger.privileged.direct import DirectOps
from banger.privileged.ops import FindProcess, Found, Greeting, Hello, RemoveJail
from banger.privileged.site import Site

Reply = Callable[[bytes], bytes]


@asynccontextmanager
async def answering(path: Path, reply: Reply) -> AsyncIterator[RootClient]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(await reader.readline()))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(serve, path / "socket"):
        yield RootClient(path / "socket", lambda: "op-7")


async def failure(call: Awaitable[object]) -> BangerError:
    with pytest.raises(BangerError) as caught:
        await call

    return caught.value


async def test_the_operation_goes_along_and_the_result_comes_back(tmp_path: Path) -> None:
    def reply(line: bytes) -> bytes:
        message = json.loads(line)
        assert (message["op"], message["operation"]) == ("find_process", "op-7")
        return b'{"result": {"process": {"pid": 7, "start_time": 9}}}\n'

    async with answering(tmp_path, reply) as client:
        found = await client.call(FindProcess(jail="a"))

    assert found.process is not None
    assert found.process.pid == 7


async def test_a_helper_that_is_not_there_did_nothing(tmp_path: Path) -> None:
    error = await failure(RootClient(tmp_path / "none", lambda: None).call(Hello()))

    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.HELPER_UNREACHABLE
    assert error.hint is not None


@pytest.mark.parametrize("line", [b"", b'{"result": ', b'{"result": null}'])
async def test_half_an_answer_leaves_the_outcome_unknown(tmp_path: Path, line: bytes) -> None:
    async with answering(tmp_path, lambda _: line) as client:
        error = await failure(client.call(RemoveJail(jail="a")))

    assert isinstance(error, OutcomeUnknown)


@pytest.mark.parametrize(
    ("code", "kind", "shown"),
    [
        ("refused", PermanentError, ErrorCode.HELPER_REFUSED),
        ("bad_request", PermanentError, ErrorCode.HELPER_REFUSED),
        ("not_found", CallerError, ErrorCode.HELPER_REFUSED),
        ("busy", TransientError, ErrorCode.HELPER_BUSY),
        ("failed", PermanentError, ErrorCode.TOOL_FAILED),
        ("timeout", OutcomeUnknown, ErrorCode.HELPER_UNREACHABLE),
        ("internal", OutcomeUnknown, ErrorCode.INTERNAL),
    ],
)
async def test_each_fault_says_whether_to_repeat(
    tmp_path: Path, code: str, kind: type[BangerError], shown: ErrorCode
) -> None:
    body = json.dumps({"error": {"code": code, "message": "why"}}).encode() + b"\n"
    async with answering(tmp_path, lambda _: body) as client:
        error = await failure(client.call(RemoveJail(jail="a")))

    assert type(error) is kind
    assert error.code is shown
    assert error.message == "remove_jail: why"


async def test_root_without_a_helper_has_the_same_operations_and_gates(tmp_path: Path) -> None:
    site = Site(
        owner_uid=os.getuid(), owner_gid=os.getgid(), roots=(str(tmp_path),), jails=f"{tmp_path}/j"
    )
    ops: PrivilegedOps = DirectOps(site, lambda: "op-1")

    assert await ops.call(Hello()) == Greeting(protocol=1, version=banger.__version__)
    assert await ops.call(FindProcess(jail="none")) == Found(process=None)
    error = await failure(ops.call(FindProcess(jail="../etc")))
    assert error.code is ErrorCode.HELPER_REFUSED
