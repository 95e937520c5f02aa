"""What an agent answers is checked before it is believed, and shown without doing harm."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import BangerError, CallerError, ErrorCode, PermanentError
from banger.channel.requests import (
    Answer,
    Exec,
    Exited,
    GuestHealth,
    GuestStats,
    Listeners,
    Written,
    frames_taken,
    printable,
    read_answer,
    request_text,
)
from banger.guest.agent.text import JsonReader

KINDS: list[type[Answer]] = [Exited, GuestHealth, GuestStats, Listeners, Written]

AGENTS = (ErrorCode.AGENT_PROTOCOL, ErrorCode.AGENT_REFUSED, ErrorCode.AGENT_FAILED)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
answers = st.dictionaries(
    st.sampled_from(["code", "signal", "error", "ports", "frames", "path", "uptime", "x"]),
    json_values,
)


@given(st.binary() | answers.map(lambda value: json.dumps(value).encode()), st.sampled_from(KINDS))
def test_any_answer_is_understood_or_refused_in_one_line(text: bytes, kind: type[Answer]) -> None:
    frames_taken(text)
    answer: Answer | BangerError
    try:
        answer = read_answer(text, kind)
    except BangerError as error:
        answer = error

    if isinstance(answer, BangerError):
        assert answer.message.isprintable()
        assert answer.code in AGENTS
    else:
        assert isinstance(answer, kind)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(PermanentError):
        read_answer(b"[" * 100_000, Exited)


def test_a_failure_is_told_by_whose_it_is() -> None:
    with pytest.raises(CallerError, match="no user"):
        read_answer(b'{"error":{"code":"unknown_user","message":"no user"}}', Exited)

    with pytest.raises(PermanentError, match="disk"):
        read_answer(b'{"error":{"code":"failed","message":"disk"}}', Exited)


def test_what_a_guest_says_cannot_control_a_terminal() -> None:
    text = b'{"error":{"code":"failed","message":"\\u001b[2Jboo\\nsecond\\u202e"}}'
    with pytest.raises(PermanentError) as caught:
        read_answer(text, Exited)

    assert caught.value.message.isprintable()
    assert printable("a" * 1000) == "a" * 300


@given(st.lists(st.text(st.characters(codec=None)), min_size=1))
def test_words_arrive_in_the_agent_as_they_are(argv: list[str]) -> None:
    request = JsonReader(request_text(Exec(argv=tuple(argv))).decode()).read()

    assert request["request"] == "exec"
    assert request["argv"] == json.loads(json.dumps(argv))


def test_statuses_are_those_of_a_shell() -> None:
    assert [Exited(code=3).status, Exited(signal=9).status, Exited().status] == [3, 137, 0]
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"code":256}', type=Exited)
