"""The SDK: errors arrive as they were raised, operations are followed to their end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.client.fake_daemon import FakeDaemon, make_vm, succeeded

from banger.api.errors import (
    BangerError,
    CallerError,
    ErrorCode,
    OutcomeUnknown,
    PermanentError,
    TransientError,
)
from banger.api.models import CreateVM, Operation, OperationState, UpdateVM
from banger.client.client import Client


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "s") as daemon:
        yield daemon


@pytest.fixture
def client(daemon: FakeDaemon) -> Client:
    return Client(daemon.path)


def test_vms_are_read_as_the_daemon_wrote_them(daemon: FakeDaemon, client: Client) -> None:
    vm = make_vm("aabbccddeeff", "dev")
    daemon.add(vm)
    assert client.vms() == [vm]
    assert client.vm("aabb") == vm


def test_only_what_is_to_change_is_sent(daemon: FakeDaemon, client: Client) -> None:
    daemon.add(make_vm("aabbccddeeff", "dev"))
    client.update_vm("dev", UpdateVM(nat=False))
    client.create_vm(CreateVM(name="web"))
    bodies = [body for method, _, body in daemon.requests if method in ("PATCH", "POST")]
    assert bodies == [{"nat": False}, {"name": "web"}]


def test_waiting_shows_every_snapshot_and_returns_the_last(
    daemon: FakeDaemon, client: Client
) -> None:
    seen: list[Operation] = []
    ended = client.wait(client.create_vm(CreateVM()), seen.append)
    assert [snapshot.state for snapshot in seen] == ["running", "succeeded"]
    assert ended == seen[-1]


def test_an_operation_that_failed_raises_its_error(daemon: FakeDaemon, client: Client) -> None:
    vm = make_vm("aabbccddeeff", "dev")
    daemon.add(vm)
    error = TransientError(ErrorCode.PORT_TAKEN, "port 80 is taken", hint="take another")
    daemon.replies["POST", "/v1/vms/dev/start"] = lambda _: daemon.fail("start", vm, error)
    with pytest.raises(TransientError, match="port 80 is taken") as caught:
        client.wait(client.start_vm("dev"))

    assert (caught.value.code, caught.value.hint) == (ErrorCode.PORT_TAKEN, "take another")


def test_a_stream_that_ends_too_early_leaves_the_outcome_unknown(
    daemon: FakeDaemon, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = client.create_vm(CreateVM())
    monkeypatch.setattr(daemon, "events", lambda _: [lambda: operation])
    with pytest.raises(OutcomeUnknown, match="while create was under way"):
        client.wait(operation)


def test_a_cancelled_operation_raises_cancelled(daemon: FakeDaemon, client: Client) -> None:
    daemon.holding.add("create")
    operation = client.create_vm(CreateVM())
    client.cancel(operation.id)
    with pytest.raises(CallerError) as caught:
        client.wait(operation)

    assert caught.value.code is ErrorCode.CANCELLED


def test_quiet_seconds_repeat_the_newest_snapshot(daemon: FakeDaemon, client: Client) -> None:
    daemon.holding.add("create")
    operation = client.create_vm(CreateVM())
    seen: list[Operation] = []

    def watch(snapshot: Operation) -> None:
        seen.append(snapshot)
        if len(seen) == 3:
            client.cancel(operation.id)

    with pytest.raises(BangerError):
        client.wait(operation, watch, tick=0.01)

    assert seen[0] == seen[1] == seen[2]
    assert seen[-1].state is OperationState.CANCELLED


def test_errors_keep_kind_code_and_hint(daemon: FakeDaemon, client: Client) -> None:
    with pytest.raises(CallerError) as caught:
        client.vm("nope")

    assert (caught.value.code, caught.value.hint) == (ErrorCode.UNKNOWN_VM, "banger vm list")


def test_an_error_code_of_a_newer_daemon_is_an_error_all_the_same(
    daemon: FakeDaemon, client: Client
) -> None:
    body = b'{"id":"o","kind":"x","state":"failed","started_at":1,"error":{"code":"from_2031",'
    body += b'"message":"odd","kind":"permanent"}}'
    daemon.replies["GET", "/v1/operations/o"] = lambda _: body
    error = client.operation("o").error
    assert error is not None
    assert (error.code, error.message) == (ErrorCode.INTERNAL, "odd")


def test_nonsense_is_one_clear_error(daemon: FakeDaemon, client: Client) -> None:
    daemon.replies["GET", "/v1/vms"] = lambda _: b"<html>"
    with pytest.raises(PermanentError, match="makes no sense"):
        client.vms()


@pytest.mark.parametrize("ref", ["a/b", "..", "x?y=1", "ä", "a b", "%2f"])
def test_any_text_may_be_asked_for_as_a_name(client: Client, ref: str) -> None:
    with pytest.raises(CallerError):
        client.vm(ref)


def test_an_empty_name_never_reaches_the_collection(daemon: FakeDaemon, client: Client) -> None:
    with pytest.raises(CallerError, match="names no VM"):
        client.delete_vm("")

    assert daemon.requests == []


def test_logs_come_byte_for_byte(daemon: FakeDaemon, client: Client) -> None:
    daemon.streams["/v1/vms/dev/logs"] = [b"\xff\x00a\n", b"b"]
    assert b"".join(client.logs("dev", follow=True, tail=3)) == b"\xff\x00a\nb"
    assert daemon.asked("GET") == ["/v1/vms/dev/logs?follow=true&tail=3"]


def test_an_ended_operation_is_not_followed(daemon: FakeDaemon, client: Client) -> None:
    client.wait(succeeded("x"))
    assert daemon.requests == []
