"""The API: what is asked, what is answered, and that every refusal has the same shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.daemon.fakes import Api, Reply, fake_api

from banger import __version__
from banger.api.errors import (
    CallerError,
    ErrorCode,
    ErrorKind,
    OutcomeUnknown,
    PermanentError,
    TransientError,
)
from banger.api.models import (
    VM,
    CreateVM,
    DaemonVersion,
    ErrorReply,
    KillVM,
    Operation,
    OperationState,
    UpdateVM,
)
from banger.daemon.app import BODY_MAX
from banger.daemon.operations import Progress
from banger.daemon.routes.decode import Wanted, decode_body


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with fake_api(tmp_path) as api:
        yield api


def refused(reply: Reply) -> tuple[int, ErrorCode]:
    """Status and code of an error, whose shape is checked on the way."""
    error = reply.json(ErrorReply).error
    assert reply.headers["content-type"] == "application/json"
    assert error.message
    assert "\n" not in error.message
    return reply.status, error.code


async def test_a_change_is_answered_with_the_operation_that_makes_it(api: Api) -> None:
    created = await api.ask("POST", "/v1/vms", b'{"name": "dev", "vcpus": 1}')
    assert created.status == 202
    operation = created.json(Operation)
    assert operation.kind == "vm.create"
    await api.services.operations.wait(operation.id)
    shown = await api.ask("GET", f"/v1/operations/{operation.id}")
    assert shown.json(Operation).state is OperationState.SUCCEEDED
    assert api.services.vms.asked == [CreateVM(name="dev", vcpus=1)]
    assert (await api.ask("GET", "/v1/vms/dev")).json(VM).name == "dev"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/vms/dev/start"),
        ("POST", "/v1/vms/dev/stop"),
        ("POST", "/v1/vms/dev/restart"),
        ("POST", "/v1/vms/dev/kill"),
        ("POST", "/v1/vms/dev/pause"),
        ("POST", "/v1/vms/dev/resume"),
        ("POST", "/v1/vms/dev/reclaim"),
        ("POST", "/v1/vms/dev/suspend"),
        ("POST", "/v1/vms/dev/fork"),
        ("POST", "/v1/vms/dev/snapshots"),
        ("POST", "/v1/vms/dev/snapshots/first/restore"),
        ("DELETE", "/v1/vms/dev/snapshots/first"),
        ("POST", "/v1/templates"),
        ("POST", "/v1/templates/prune"),
        ("DELETE", "/v1/templates/0123456789abcdef"),
        ("PATCH", "/v1/vms/dev"),
        ("DELETE", "/v1/vms/dev"),
        ("POST", "/v1/images/build"),
    ],
)
async def test_every_change_is_accepted_as_an_operation(api: Api, method: str, target: str) -> None:
    await api.ask("POST", "/v1/vms", b'{"name": "dev"}')
    await api.ask("POST", "/v1/vms/dev/snapshots", b'{"name": "first"}')
    reply = await api.ask(method, target)
    assert (reply.status, reply.json(Operation).state) == (202, OperationState.RUNNING)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/version",
        "/v1/status",
        "/v1/doctor",
        "/v1/vms",
        "/v1/vms/dev",
        "/v1/vms/dev/ssh",
        "/v1/vms/dev/stats",
        "/v1/vms/dev/snapshots",
        "/v1/vms/dev/snapshots/first",
        "/v1/templates",
        "/v1/images",
        "/v1/images/debian-bookworm",
        "/v1/kernels",
        "/v1/kernels/cloud",
        "/v1/operations",
        "/v1/operations?limit=1",
        "/openapi.json",
    ],
)
async def test_what_can_be_read_is_json_and_says_its_version(api: Api, target: str) -> None:
    await api.ask("POST", "/v1/vms", b'{"name": "dev"}')
    await api.ask("POST", "/v1/vms/dev/snapshots", b'{"name": "first"}')
    reply = await api.ask("GET", target)
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["banger-version"] == __version__
    assert int(reply.headers["content-length"]) == len(reply.body)
    msgspec.json.decode(reply.body)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (b"{", ErrorCode.INVALID_REQUEST, "not JSON"),
        (b'{"name": "\xff"}', ErrorCode.INVALID_REQUEST, "not JSON"),
        (b"[]", ErrorCode.INVALID_REQUEST, "object"),
        (b'{"nmae": "dev"}', ErrorCode.INVALID_REQUEST, "`nmae`"),
        (b'{"start": "yes"}', ErrorCode.INVALID_REQUEST, "start: expected `bool`"),
        (b'{"ports": [{"host_port": 1}]}', ErrorCode.INVALID_REQUEST, "ports"),
        (b'{"name": "Dev!"}', ErrorCode.INVALID_NAME, "VM name 'Dev!' is not valid"),
        (b'{"name": "dev\\n"}', ErrorCode.INVALID_NAME, r"'dev\n'"),
        (b'{"name": ""}', ErrorCode.INVALID_NAME, "''"),
        (b'{"name": 5}', ErrorCode.INVALID_NAME, "VM name 5 is not text"),
        (b'{"name": "%s"}' % (b"x" * 5000), ErrorCode.INVALID_NAME, "…"),
        (b'{"image": "a b"}', ErrorCode.INVALID_NAME, "image name 'a b'"),
        (b'{"vcpus": 0}', ErrorCode.INVALID_SIZE, "vcpus: expected `int` >= 1"),
        (b'{"vcpus": 65}', ErrorCode.INVALID_SIZE, "vcpus: expected `int` <= 64"),
        (b'{"memory": "4G"}', ErrorCode.INVALID_SIZE, "memory"),
        (b'{"disk_size": -1}', ErrorCode.INVALID_SIZE, "disk_size"),
        (b'{"root_size": 1e300}', ErrorCode.INVALID_SIZE, "root_size"),
    ],
)
async def test_a_bad_body_is_refused_in_one_line_that_names_the_field(
    api: Api, body: bytes, code: ErrorCode, said: str
) -> None:
    reply = await api.ask("POST", "/v1/vms", body)
    assert refused(reply) == (400, code)
    error = reply.json(ErrorReply).error
    assert said in error.message
    assert error.hint
    assert len(error.message) < 500
    assert api.services.vms.asked == []


def understood_or_refused(body: bytes, kind: type[Wanted]) -> Wanted | None:
    refusal = ""
    try:
        return decode_body(body, kind)
    except CallerError as error:
        refusal = error.message

    assert refusal
    assert "\n" not in refusal
    return None


@given(body=st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_request_or_the_callers_mistake(body: bytes) -> None:
    for kind in (CreateVM, UpdateVM, KillVM):
        understood_or_refused(body, kind)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(CreateVM.__struct_fields__), json_values, min_size=1))
def test_any_json_in_the_right_fields_is_a_request_or_the_callers_mistake(
    value: dict[str, Any],
) -> None:
    request = understood_or_refused(msgspec.json.encode(value), CreateVM)
    if request is not None:
        assert decode_body(msgspec.json.encode(request), CreateVM) == request


async def test_an_empty_body_is_an_empty_request(api: Api) -> None:
    assert (await api.ask("POST", "/v1/vms")).status == 202
    assert (await api.ask("POST", "/v1/vms/made-up-0/kill")).status == 202
    assert api.services.vms.asked == [CreateVM(), KillVM(signal="KILL")]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/v1/vms?colour=red", "`colour`"),
        ("/v1/operations?limit=0", "limit: expected `int` >= 1"),
        ("/v1/operations?limit=many", "limit"),
        ("/v1/operations?limit=1&limit=2", "twice"),
        ("/v1/vms/dev/logs?tail=-1", "tail"),
        ("/v1/vms/dev/logs?follow=perhaps", "follow"),
    ],
)
async def test_a_bad_query_is_refused(api: Api, target: str, said: str) -> None:
    await api.ask("POST", "/v1/vms", b'{"name": "dev"}')
    reply = await api.ask("GET", target)
    assert refused(reply) == (400, ErrorCode.INVALID_REQUEST)
    assert said in reply.json(ErrorReply).error.message


async def test_a_body_that_is_too_long_is_refused(api: Api) -> None:
    longest = b'{"recipe": "%s"}' % (b"x" * (BODY_MAX - 14))
    assert len(longest) == BODY_MAX
    assert (await api.ask("POST", "/v1/images/build", longest)).status == 202
    reply = await api.ask("POST", "/v1/images/build", longest + b" ")
    assert refused(reply) == (413, ErrorCode.INVALID_REQUEST)


@pytest.mark.parametrize("target", ["/", "/v2/vms", "/v1/vms/", "/v1/vms/dev/none", "/v1/vms//ssh"])
async def test_an_unknown_path_is_not_found(api: Api, target: str) -> None:
    assert refused(await api.ask("GET", target)) == (404, ErrorCode.NOT_FOUND)


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("PUT", "/v1/vms", "GET, POST"),
        ("HEAD", "/v1/version", "GET"),
        ("POST", "/v1/vms/dev", "DELETE, GET, PATCH"),
        ("PATCH", "/v1/images/build", "POST"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    api: Api, method: str, target: str, allowed: str
) -> None:
    reply = await api.ask(method, target)
    assert refused(reply) == (405, ErrorCode.INVALID_REQUEST)
    assert reply.headers["allow"] == allowed
    assert reply.headers["banger-version"] == __version__


async def test_an_image_may_be_called_build(api: Api) -> None:
    images = api.services.images.images
    images["build"] = msgspec.structs.replace(images["debian-bookworm"], name="build")
    assert (await api.ask("GET", "/v1/images/build")).status == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CallerError(ErrorCode.UNKNOWN_VM, "m"), 404),
        (CallerError(ErrorCode.NAME_TAKEN, "m"), 409),
        (CallerError(ErrorCode.DISK_TOO_SMALL, "m"), 400),
        (PermanentError(ErrorCode.HYPERVISOR_MISSING, "m"), 422),
        (PermanentError(ErrorCode.INSUFFICIENT_DISK, "m"), 507),
        (PermanentError(ErrorCode.STATE_CORRUPT, "m"), 500),
        (TransientError(ErrorCode.VM_BUSY, "m"), 503),
        (OutcomeUnknown(ErrorCode.LAUNCH_FAILED, "m"), 500),
    ],
)
async def test_an_error_keeps_its_code_and_has_the_status_of_its_kind(
    api: Api, monkeypatch: pytest.MonkeyPatch, error: CallerError, status: int
) -> None:
    async def fail() -> list[VM]:
        raise error

    monkeypatch.setattr(api.services.vms, "list", fail)
    reply = await api.ask("GET", "/v1/vms")
    assert refused(reply) == (status, error.code)
    assert reply.json(ErrorReply).error.kind is error.kind


async def test_a_bug_is_answered_and_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    reply = await api.ask("GET", "/v1/vms/boom")
    assert refused(reply) == (500, ErrorCode.INTERNAL)
    assert reply.json(ErrorReply).error.kind is ErrorKind.OUTCOME_UNKNOWN
    assert "ZeroDivisionError" in caplog.text


async def test_shutdown_is_asked_for_and_answered(api: Api) -> None:
    assert (await api.ask("POST", "/v1/shutdown?now=1")).status == 400
    assert not api.stopped.is_set()
    reply = await api.ask("POST", "/v1/shutdown")
    assert reply.status == 202
    assert reply.json(DaemonVersion).version == __version__
    assert api.stopped.is_set()


async def test_events_are_lines_of_json_up_to_the_end(api: Api) -> None:
    async def body(progress: Progress) -> None:
        progress.stage("one")

    started = await api.services.operations.start("vm.start", body, target=None, target_name=None)
    reply = await api.ask("GET", f"/v1/operations/{started.id}/events")
    assert reply.headers["content-type"] == "application/x-ndjson"
    seen = [msgspec.json.decode(line, type=Operation) for line in reply.body.splitlines()]
    assert seen[-1].state is OperationState.SUCCEEDED
    assert [stage.name for stage in seen[-1].stages] == ["one"]


async def test_events_of_an_unknown_operation_are_an_error(api: Api) -> None:
    reply = await api.ask("GET", "/v1/operations/op-0000000000/events")
    assert refused(reply) == (404, ErrorCode.UNKNOWN_OPERATION)


async def test_cancelling_is_answered_before_the_rollback_is_done(api: Api) -> None:
    undone = asyncio.Event()

    async def body(progress: Progress) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await undone.wait()

    operations = api.services.operations
    started = await operations.start("vm.start", body, target=None, target_name=None)
    await asyncio.sleep(0)
    reply = await api.ask("DELETE", f"/v1/operations/{started.id}")
    assert reply.json(Operation).state is OperationState.RUNNING
    undone.set()
    assert (await operations.wait(started.id)).state is OperationState.CANCELLED


async def test_following_a_log_ends_when_the_client_leaves(api: Api) -> None:
    await api.ask("POST", "/v1/vms", b'{"name": "dev"}')
    write(api.services.vms.console, b"one\ntwo\n")
    async with api.stream("GET", "/v1/vms/dev/logs?follow=true&tail=1") as stream:
        assert await stream.next() == b"two\n"
        assert stream.reply.headers["content-type"].startswith("text/plain")
        write(api.services.vms.console, b"three\n")
        assert await stream.next() == b"three\n"


async def test_following_a_log_ends_when_the_daemon_does(api: Api) -> None:
    await api.ask("POST", "/v1/vms", b'{"name": "dev"}')
    write(api.services.vms.console, b"one\n")
    async with api.stream("GET", "/v1/vms/dev/logs?follow=true") as stream:
        assert await stream.next() == b"one\n"
        api.closing.set()
        assert await stream.next() is None


async def test_a_log_that_is_not_there_yet_is_empty(api: Api) -> None:
    await api.ask("POST", "/v1/vms", b'{"name": "dev"}')
    reply = await api.ask("GET", "/v1/vms/dev/logs")
    assert (reply.status, reply.body) == (200, b"")
    assert refused(await api.ask("GET", "/v1/vms/none/logs")) == (404, ErrorCode.UNKNOWN_VM)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(data)
