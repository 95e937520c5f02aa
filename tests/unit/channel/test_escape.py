"""`~.` at the beginning of a line leaves; every other key goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.channel.escape import Escape


@pytest.mark.parametrize(
    ("typed", "passed", "left"),
    [
        (b"~.", b"", True),
        (b"ls\r~.more", b"ls\r", True),
        (b"a~.", b"a~.", False),
        (b"~~.", b"~.", False),
        (b"~x\r~~\r", b"~x\r~\r", False),
        (b"\n~a~.", b"\n~a~.", False),
    ],
)
def test_keys(typed: bytes, passed: bytes, left: bool) -> None:
    escape = Escape()

    assert (escape.pass_on(typed), escape.left) == (passed, left)


@given(st.text("a~.\r\n").map(str.encode))
def test_it_does_not_matter_how_keys_are_grouped(typed: bytes) -> None:
    together, apart, passed = Escape(), Escape(), b""
    for byte in typed:
        if not apart.left:
            passed += apart.pass_on(bytes((byte,)))

    assert together.pass_on(typed) == passed
    assert together.left == apart.left
