"""A sparse copy has the same bytes, and holes where the original has them."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.sizes import KIB, MIB
from banger.host.files import allocated_bytes
from banger.storage.files import copy_sparse

# (is a hole, length): lengths on and off every block boundary.
SEGMENTS = st.lists(st.tuples(st.booleans(), st.integers(0, 300 * KIB)), max_size=8)


def write(path: Path, segments: list[tuple[bool, int]]) -> None:
    with path.open("wb") as file:
        for hole, length in segments:
            if hole:
                file.seek(length, os.SEEK_CUR)
            else:
                file.write(os.urandom(length))
        file.truncate()


def refuse(code: int) -> Any:
    def call(*_arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    return call


@given(SEGMENTS)
def test_copy_has_the_same_bytes(segments: list[tuple[bool, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        source, copy = Path(directory, "source"), Path(directory, "copy")
        write(source, segments)
        copy_sparse(source, copy)
        assert copy.read_bytes() == source.read_bytes()


@given(SEGMENTS)
def test_copy_without_help_of_the_kernel_has_the_same_bytes(
    segments: list[tuple[bool, int]],
) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setattr(fcntl, "ioctl", refuse(errno.EOPNOTSUPP))
        patch.setattr(os, "copy_file_range", refuse(errno.EXDEV))
        source, copy = Path(directory, "source"), Path(directory, "copy")
        write(source, segments)
        copy_sparse(source, copy)
        assert copy.read_bytes() == source.read_bytes()


def test_a_large_hole_takes_no_space(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    write(source, [(True, 64 * MIB), (False, 100), (True, 1024 * MIB)])
    copy_sparse(source, copy)
    assert copy.stat().st_size == source.stat().st_size
    assert allocated_bytes(copy) < MIB


def test_a_copy_is_private(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"secret")
    (tmp_path / "source").chmod(0o644)
    copy_sparse(tmp_path / "source", tmp_path / "copy")
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600


def test_writes_to_the_copy_do_not_reach_the_source(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(b"source" * 1000)
    copy_sparse(source, copy)
    copy.write_bytes(b"changed")
    assert source.read_bytes() == b"source" * 1000


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "copy").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        copy_sparse(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"mine"


def test_a_failed_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr(os, "copy_file_range", refuse(errno.EIO))
    (tmp_path / "source").write_bytes(b"data")
    with pytest.raises(OSError, match="Input/output error"):
        copy_sparse(tmp_path / "source", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
