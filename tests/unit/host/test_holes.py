"""What is dug out of a file reads as before, and takes no room."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banger.host import holes

PIECE = 1 << 14


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(pieces=st.lists(st.booleans(), max_size=40), rest=st.integers(0, PIECE - 1))
def test_nothing_but_zeros_becomes_holes(tmp_path: Path, pieces: list[bool], rest: int) -> None:
    content = b"".join(bytes((filled,)) * PIECE for filled in pieces) + bytes(rest)
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("r+b") as file:
        holes.dig(file.fileno())

    assert path.read_bytes() == content


def test_room_that_zeros_took_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8 << 20) + b"end")
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        holes.dig(file.fileno())

    assert path.stat().st_size == (8 << 20) + 3
    assert path.stat().st_blocks * 512 <= 1 << 16
