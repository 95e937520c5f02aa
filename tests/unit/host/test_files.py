"""Files are the old or the new, trees go away for good, and boots are told apart."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from banger.host.boot import host_boot_id
from banger.host.files import allocated_bytes, remove_tree, write_atomic


def test_a_written_file_has_its_content_and_mode(tmp_path: Path) -> None:
    write_atomic(tmp_path / "key", b"secret")
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    write_atomic(tmp_path / "key", b"public", 0o644)
    assert (tmp_path / "key").read_bytes() == b"public"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o644


def test_a_write_that_fails_keeps_the_old_content_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "file", b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_tree_is_removed_whatever_its_modes(tmp_path: Path) -> None:
    deep = tmp_path / "vm" / "closed" / "inner"
    deep.mkdir(parents=True)
    (deep / "file").touch(mode=0o000)
    deep.chmod(0o000)
    deep.parent.chmod(0o500)
    remove_tree(tmp_path / "vm")
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "top").symlink_to(tmp_path / "mine")
    remove_tree(tmp_path / "vm")
    remove_tree(tmp_path / "top")
    assert (tmp_path / "mine" / "file").exists()
    assert not os.path.lexists(tmp_path / "top")


def test_what_is_gone_already_is_removed(tmp_path: Path) -> None:
    remove_tree(tmp_path / "never")


def test_a_single_file_is_a_tree_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remove_tree(tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_allocation_counts_what_is_written_and_not_what_is_promised(tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm" / "sparse").touch()
    os.truncate(tmp_path / "vm" / "sparse", 1 << 40)
    (tmp_path / "vm" / "data").write_bytes(os.urandom(1 << 20))
    assert 1 << 20 <= allocated_bytes(tmp_path / "vm") < 2 << 20
    assert allocated_bytes(tmp_path / "never") == 0


def test_this_boot_has_one_id() -> None:
    assert host_boot_id() == host_boot_id()
    assert len(host_boot_id()) == 36


def test_another_boot_can_be_pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "boot").write_text("11111111-2222-3333-4444-555555555555\n")
    assert host_boot_id(tmp_path / "boot") == "11111111-2222-3333-4444-555555555555"
    monkeypatch.setenv("BANGER_BOOT_ID_FILE", str(tmp_path / "boot"))
    assert host_boot_id() == "11111111-2222-3333-4444-555555555555"
