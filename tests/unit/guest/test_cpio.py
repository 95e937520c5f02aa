"""Archives are read back with the real cpio(1), which knows the format from elsewhere."""

from __future__ import annotations

import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger.guest import cpio

NAMES = st.text(st.sampled_from("abcXYZ019.-_é"), min_size=1, max_size=40).filter(
    lambda name: name not in {".", ".."} and not name.startswith("-")
)
FILES = st.dictionaries(NAMES, st.binary(max_size=300), max_size=6)


def unpack(data: bytes, folder: Path) -> None:
    subprocess.run(
        ["cpio", "--extract", "--quiet", "--make-directories", "--no-absolute-filenames"],
        input=data,
        cwd=folder,
        check=True,
    )


@given(FILES)
@settings(max_examples=25, deadline=None)
def test_what_goes_in_comes_out_with_cpio(files: dict[str, bytes]) -> None:
    data = cpio.archive([cpio.file(name, content) for name, content in files.items()])
    with tempfile.TemporaryDirectory() as folder:
        unpack(data, Path(folder))
        assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == files


def test_directories_modes_and_links_are_kept(tmp_path: Path) -> None:
    entries = [
        cpio.directory("a", 0o700),
        cpio.file("a/run", b"#!/bin/sh\n", 0o755),
        cpio.symlink("a/link", "run"),
    ]
    unpack(cpio.archive(entries), tmp_path)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a/run").stat().st_mode) == 0o755
    assert (tmp_path / "a/link").readlink() == Path("run")


@given(FILES)
def test_archives_stay_aligned_so_that_they_can_be_joined(files: dict[str, bytes]) -> None:
    data = cpio.archive([cpio.file(name, content) for name, content in files.items()])
    assert len(data) % 4 == 0


def test_the_same_entries_are_the_same_bytes() -> None:
    entries = [cpio.directory("d"), cpio.file("d/f", b"x")]
    assert cpio.archive(entries) == cpio.archive(list(entries))


def test_a_header_has_the_fields_of_the_format() -> None:
    header = cpio.archive([cpio.file("name", b"12345", 0o640)])[:110]
    assert header[:6] == b"070701"
    fields = [int(header[start : start + 8], 16) for start in range(6, 110, 8)]
    assert fields == [1, 0o100640, 0, 0, 1, 0, 5, 0, 0, 0, 0, 5, 0]


def test_a_file_the_format_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpio, "_FIELD_MAX", 3)
    with pytest.raises(ValueError, match="too big"):
        cpio.archive([cpio.file("f", b"1234")])
