"""A digest tells content apart, and nothing else: not holes, not file systems, not names."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banger.image.content import digest, record, untouched

KIB = 1024
GIB = 1024**3


def write_sparse(path: Path, pieces: dict[int, bytes], size: int) -> Path:
    with path.open("wb") as file:
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)

        file.truncate(size)

    return path


def test_holes_and_written_zeros_are_the_same(tmp_path: Path) -> None:
    sparse = write_sparse(tmp_path / "sparse", {300 * KIB: b"x"}, 1000 * KIB)
    full = tmp_path / "full"
    full.write_bytes(sparse.read_bytes())

    assert sparse.stat().st_blocks < full.stat().st_blocks
    assert digest(sparse) == digest(full)


def test_the_place_of_data_and_the_length_count(tmp_path: Path) -> None:
    digests = {
        digest(write_sparse(tmp_path / "a", {0: b"x"}, GIB)),
        digest(write_sparse(tmp_path / "b", {64 * KIB: b"x"}, GIB)),
        digest(write_sparse(tmp_path / "c", {0: b"x"}, GIB + 1)),
        digest(write_sparse(tmp_path / "d", {}, GIB)),
    }

    assert len(digests) == 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    pieces=st.dictionaries(
        st.integers(0, 600 * KIB), st.binary(min_size=1, max_size=9), max_size=5
    ),
    size=st.integers(700 * KIB, 900 * KIB),
)
def test_two_layouts_of_one_content_agree(
    tmp_path: Path, pieces: dict[int, bytes], size: int
) -> None:
    sparse = write_sparse(tmp_path / "sparse", pieces, size)
    dense = tmp_path / "dense"
    dense.write_bytes(sparse.read_bytes())

    assert digest(sparse) == digest(dense)


def test_a_file_that_was_written_to_is_not_untouched(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "disk", {0: b"one"}, 10)
    known = record(path)
    assert untouched(path, known)

    path.write_bytes(b"two" + bytes(7))
    os.utime(path, ns=(0, known.mtime_ns + 1))

    assert not untouched(path, known)
