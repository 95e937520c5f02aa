"""What Firecracker wrote, in one file and out of it again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger.api.errors import ErrorCode, PermanentError
from banger.hypervisor.base import MemoryImage
from banger.hypervisor.firecracker import checkpoint

MEMORY = bytes(1 << 20) + b"used" * (1 << 14) + bytes(1 << 20) + b"!" + bytes(99)
STATE = b"devices" * 1000


def saved(home: Path, memory: bytes = MEMORY) -> Path:
    saving = home / "saving"
    saving.mkdir()
    (saving / "memory").write_bytes(memory)
    (saving / "state").write_bytes(STATE)
    checkpoint.join(saving, home / "stream")
    assert list(saving.iterdir()) == []
    return home / "stream"


def test_what_goes_in_comes_out_and_zeros_are_holes(home: Path) -> None:
    stream = saved(home)
    out = MemoryImage(directory=home / "out")
    checkpoint.convert(stream, out)
    assert out.memory.read_bytes() == MEMORY
    assert out.state.read_bytes() == STATE
    assert out.memory.stat().st_blocks * 512 < len(MEMORY) // 2
    assert stream.stat().st_ino == out.memory.stat().st_ino


@pytest.mark.parametrize("size", [0, 1, 65536, 65537])
def test_memory_of_zeros_is_as_long_as_it_was(home: Path, size: int) -> None:
    out = MemoryImage(directory=home / "out")
    checkpoint.convert(saved(home, bytes(size)), out)
    assert out.memory.read_bytes() == bytes(size)


@given(junk=st.binary(max_size=64))
@settings(deadline=None)
def test_what_is_no_stream_makes_nothing(
    junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("junk")
    (home / "stream").write_bytes(junk)
    with pytest.raises(PermanentError) as raised:
        checkpoint.convert(home / "stream", MemoryImage(directory=home / "out"))

    assert raised.value.code is ErrorCode.SAVE_FAILED
    assert not (home / "out").exists()


def test_half_a_snapshot_is_none(home: Path) -> None:
    saving = home / "saving"
    saving.mkdir()
    (saving / "memory").write_bytes(MEMORY)
    with pytest.raises(FileNotFoundError):
        checkpoint.join(saving, home / "stream")

    assert not (home / "stream").exists()
    assert list(saving.iterdir()) == []
