"""Requests and replies: what is sent arrives, and nothing else is taken."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.privileged.outcome import fault_of

from banger.privileged import ops
from banger.privileged.codec import (
    MAX_ITEMS,
    MAX_MESSAGE,
    MAX_TEXT,
    decode_call,
    decode_reply,
    encode_call,
    encode_fault,
    encode_result,
)
from banger.privileged.faults import Fault, FaultCode

st.register_type_strategy(
    str, st.text(st.characters(exclude_categories=["C", "Z"]), max_size=MAX_TEXT)
)
st.register_type_strategy(int, st.integers(-(2**62), 2**62))

REQUESTS = st.one_of([st.builds(request) for request in ops.OPERATIONS.values()])
REPLIES = [ops.Greeting, ops.Device, ops.Binaries, ops.Process, ops.Found, ops.Owned]
VALID = {"version": 1, "operation": "op-1", "op": "remove_jail", "args": {"jail": "a"}}


def refusal(line: bytes) -> FaultCode:
    with pytest.raises(Fault) as caught:
        decode_call(line)

    return caught.value.code


def changed(**changes: object) -> bytes:
    return json.dumps(VALID | changes).encode()


@given(REQUESTS)
def test_a_request_arrives_as_it_was_sent(request: ops.Request[object]) -> None:
    call = decode_call(encode_call(request, "op-7f"))

    assert call.request == request
    assert call.operation == "op-7f"
    assert ops.OPERATIONS[call.name] is type(request)


@given(st.one_of([st.builds(reply) for reply in REPLIES]))
def test_a_result_arrives_as_it_was_sent(reply: object) -> None:
    assert decode_reply(encode_result(reply), type(reply)) == reply


@given(st.sampled_from(FaultCode), st.text(max_size=100))
def test_a_fault_arrives_as_it_was_sent(code: FaultCode, message: str) -> None:
    with pytest.raises(Fault) as caught:
        decode_reply(encode_fault(Fault(code, message)), None)

    assert (caught.value.code, caught.value.message) == (code, message)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(line: bytes) -> None:
    assert fault_of(lambda: decode_call(line)) in (None, FaultCode.BAD_REQUEST)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


@given(st.sampled_from(sorted(ops.OPERATIONS)), JSON)
def test_any_arguments_are_a_request_or_refused(name: str, arguments: object) -> None:
    line = changed(op=name, args=arguments)

    assert fault_of(lambda: decode_call(line)) in (None, FaultCode.BAD_REQUEST)


@given(REQUESTS, st.data())
def test_a_field_of_another_type_is_refused(
    request: ops.Request[object], data: st.DataObject
) -> None:
    message = json.loads(encode_call(request, ""))
    if not message["args"]:
        return

    field = data.draw(st.sampled_from(sorted(message["args"])))
    message["args"][field] = data.draw(st.sampled_from([1.5, {"a": 1}, [[]], 2**63, "\n"]))

    assert refusal(json.dumps(message).encode()) is FaultCode.BAD_REQUEST


@pytest.mark.parametrize(
    "line",
    [
        changed(extra=1),
        changed(version=2),
        changed(version="1"),
        changed(op="reboot"),
        changed(op=["remove_jail"]),
        changed(operation="op 1\n"),
        changed(operation="x" * 65),
        changed(args={}),
        changed(args={"jail": "a", "force": True}),
        changed(args={"jail": None}),
        changed(args={"jail": "a\x00b"}),
        changed(args={"jail": "x" * (MAX_TEXT + 1)}),
        changed(op="delete_taps", args={"taps": ["tap-fc-1"] * (MAX_ITEMS + 1)}),
        changed(op="delete_taps", args={"taps": "tap-fc-1"}),
        changed(op="create_taps", args={"bridge": "br-fc", "taps": [], "isolated": 1}),
        b'{"version": 1, "version": 1, "operation": "", "op": "hello", "args": {}}',
        b'{"version": NaN, "operation": "", "op": "hello", "args": {}}',
        b"[" * 100_000,
        b" " * MAX_MESSAGE + b"{}",
        b"9" * 10_000,
        b"null",
        b"",
    ],
    ids=lambda line: repr(line[:60]),
)
def test_what_is_not_exactly_a_request_is_refused(line: bytes) -> None:
    assert decode_call(changed()).request == ops.RemoveJail(jail="a")
    assert refusal(line) is FaultCode.BAD_REQUEST


def test_no_request_says_who_is_asking() -> None:
    asked = {field.name for request in ops.OPERATIONS.values() for field in fields(request)}  # type: ignore[arg-type]

    assert asked & {"uid", "gid", "user", "owner", "root", "roots", "jails"} == set()


def test_the_list_of_operations_is_the_list_of_what_is_done() -> None:
    from banger.privileged.dispatch import _DOING

    assert set(_DOING) == set(ops.OPERATIONS.values())
