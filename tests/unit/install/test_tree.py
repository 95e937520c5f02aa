"""Files and directories on a host: as wanted afterwards, as before when taken back."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from banger.install.owner import Owner
from banger.install.tree import Tree

PLACE = Path("/etc/banger")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def everything(root: Path) -> dict[str, object]:
    """All below `root`, with modes and content."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = path.readlink()
        else:
            found[name] = (info.st_mode, path.read_bytes() if path.is_file() else None)

    return found


def test_what_was_not_there_is_gone_again(tree: Tree, tmp_path: Path, owner: Owner) -> None:
    before = everything(tmp_path)
    tree.directory(Path("/var/lib/banger"), 0o700, owner)
    tree.file(PLACE / "install.toml", "a = 1\n")
    tree.link(PLACE / "link", Path("/usr/bin/true"))
    assert mode(tree.at(Path("/var/lib/banger"))) == 0o700
    tree.undo.close()
    assert everything(tmp_path) == before


def test_what_was_there_is_as_it_was(tree: Tree, tmp_path: Path, owner: Owner) -> None:
    place = tree.at(PLACE)
    place.mkdir(parents=True, mode=0o755)
    (place / "install.toml").write_text("old")
    (place / "link").symlink_to("/old")
    before = everything(tmp_path)
    tree.directory(PLACE, 0o700, owner)
    tree.file(PLACE / "install.toml", "new")
    tree.link(PLACE / "link", Path("/new"))
    assert (place / "install.toml").read_text() == "new"
    assert (place / "link").readlink() == Path("/new")
    tree.undo.close()
    assert everything(tmp_path) == before


def test_a_directory_with_something_in_it_since_is_left(tree: Tree) -> None:
    tree.directory(PLACE, 0o755)
    (tree.at(PLACE) / "config.toml").write_text("theirs")
    tree.undo.close()
    assert (tree.at(PLACE) / "config.toml").read_text() == "theirs"


def test_wrong_modes_are_corrected(tree: Tree, owner: Owner) -> None:
    tree.at(PLACE).mkdir(parents=True)
    tree.at(PLACE).chmod(0o777)
    tree.directory(PLACE, 0o700, owner)
    assert mode(tree.at(PLACE)) == 0o700


def test_a_symlink_in_place_of_a_directory_is_not_followed(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    tree.at(PLACE).parent.mkdir(parents=True)
    tree.at(PLACE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        tree.directory(PLACE, 0o700)
    assert mode(tmp_path / "elsewhere") == 0o755


def test_a_command_that_is_somebody_elses_stays(tree: Tree) -> None:
    tree.at(PLACE).mkdir(parents=True)
    (tree.at(PLACE) / "banger").write_text("theirs")
    tree.link(PLACE / "banger", Path("/ours"))
    assert (tree.at(PLACE) / "banger").read_text() == "theirs"


def test_a_directory_is_replaced_whole(tree: Tree, tmp_path: Path) -> None:
    place, new = tree.at(PLACE), tree.at(PLACE).with_name(".new")
    place.mkdir(parents=True)
    (place / "old").touch()
    new.mkdir()
    (new / "new").touch()
    old = tree.swap(PLACE, new)
    assert [entry.name for entry in place.iterdir()] == ["new"]
    assert old is not None
    assert [entry.name for entry in old.iterdir()] == ["old"]
    tree.undo.close()
    assert [entry.name for entry in place.iterdir()] == ["old"]
    assert not old.exists()


def test_again_is_the_same(tree: Tree, tmp_path: Path, owner: Owner) -> None:
    def put() -> None:
        tree.directory(PLACE, 0o700, owner)
        tree.file(PLACE / "a", "a")
        tree.link(PLACE / "b", Path("/b"))

    put()
    before = everything(tmp_path)
    put()
    assert everything(tmp_path) == before
