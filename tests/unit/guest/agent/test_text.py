"""The agent's own JSON, held against the standard library's."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.guest.agent.text import JsonReader, to_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_it_reads_what_json_writes(value: object, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    assert JsonReader(text).read() == json.loads(text)


@given(values)
def test_json_reads_what_it_writes(value: object) -> None:
    def without_surrogates(item: object) -> object:
        if isinstance(item, str):
            return "".join("\ufffd" if 0xD800 <= ord(c) < 0xE000 else c for c in item)

        if isinstance(item, list):
            return [without_surrogates(one) for one in item]

        if isinstance(item, dict):
            return {without_surrogates(key): without_surrogates(item[key]) for key in item}

        return item

    assert json.loads(to_json(value)) == without_surrogates(value)


@given(st.text('{}[]",:\\u0123456789abcdefntrsl.-+e \n'))
def test_rubbish_raises_value_error_and_nothing_else(text: str) -> None:
    try:
        JsonReader(text).read()
    except ValueError:
        return


@pytest.mark.parametrize(
    "text", ["", "{", "[1,]", '{"a"}', '"\\x"', '"\\u12g4"', "nul", "1 2", "-", "[" * 1000]
)
def test_broken_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        JsonReader(text).read()
