"""A whole installation, put below a directory: complete, again the same, or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import banger
from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.host.files import remove_tree
from banger.install import layout, program, removal, setup
from banger.install.metadata import Metadata, read_metadata, require_metadata
from banger.install.owner import Owner, find_owner
from banger.install.tree import Tree
from banger.privileged import site

PLACED = {
    "etc/banger/install.toml",
    "etc/modules-load.d/banger.conf",
    "etc/systemd/system/banger-build.socket",
    "etc/systemd/system/banger-build@.service",
    "etc/systemd/system/banger-guests.service",
    "etc/systemd/system/bangerd-root.service",
    "etc/systemd/system/bangerd.service",
    "etc/tmpfiles.d/banger.conf",
}


def quietly(_: str) -> None: ...


def files(root: Path) -> set[str]:
    """All files but the program's own."""
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    prefix = layout.PROGRAM.relative_to("/")
    return {str(path) for path in found if not path.is_relative_to(prefix)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program without what it needs: copying and compiling that takes seconds."""

    def build(root: Path, python: Path) -> None:
        commands = root / "bin"
        commands.mkdir(parents=True)
        for name in ("banger", "bangerd"):
            (commands / name).write_text("#!/bin/sh\n")

    monkeypatch.setattr(program, "_build", build)
    monkeypatch.setattr(program, "interpreter", lambda: Path("/usr/bin/python3"))


@pytest.mark.usefixtures("small")
def test_everything_is_there_with_the_right_modes(tree: Tree, owner: Owner) -> None:
    setup.put_files(tree, owner, quietly)
    modes = {
        str(path): stat.S_IMODE(tree.at(path).stat().st_mode)
        for path in (layout.STATE, layout.CACHE, layout.RUN, layout.ROOT_STATE, layout.ROOT_RUN)
    }
    assert modes == {
        "/var/lib/banger": 0o700,
        "/var/cache/banger": 0o700,
        "/run/banger": 0o700,
        "/var/lib/banger-root": 0o700,
        "/run/banger-root": 0o711,
    }
    assert files(tree.root) == PLACED
    assert not any(
        path.stat().st_mode & 0o022 for path in tree.root.rglob("*") if not path.is_symlink()
    )


@pytest.mark.usefixtures("small")
def test_commands_lead_to_the_program(tree: Tree, owner: Owner) -> None:
    setup.put_files(tree, owner, quietly)
    link = tree.at(layout.COMMANDS / "banger")
    assert link.readlink() == layout.PROGRAM / "bin/banger"


@pytest.mark.usefixtures("small")
def test_again_leaves_the_same_and_the_old_program_to_be_removed(tree: Tree, owner: Owner) -> None:
    assert setup.put_files(tree, owner, quietly) is None
    old = setup.put_files(tree, owner, quietly)
    assert old is not None
    remove_tree(old)
    assert files(tree.root) == PLACED
    assert tree.at(layout.PROGRAM / "bin/banger").exists()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("failing", range(1, 12))
def test_a_failure_anywhere_leaves_nothing(
    tmp_path: Path, owner: Owner, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    steps = 0

    def counted(step: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == failing:
                raise OSError("disk on fire")

            return step(*args, **kwargs)

        return call

    for name in ("directory", "file", "link", "swap"):
        monkeypatch.setattr(Tree, name, counted(getattr(Tree, name)))

    with pytest.raises(OSError, match="on fire"), contextlib.ExitStack() as undo:
        setup.put_files(Tree(tmp_path / "host", undo), owner, quietly)

    assert not any((tmp_path / "host").rglob("*"))


@pytest.mark.usefixtures("small")
def test_removing_takes_the_program_and_leaves_the_state(tree: Tree, owner: Owner) -> None:
    setup.put_files(tree, owner, quietly)
    (tree.at(layout.STATE) / "state.db").touch()
    (tree.at(layout.CONFIGURATION) / "config.toml").touch()
    removal.remove_files(tree, purge=False)
    assert files(tree.root) == {"var/lib/banger/state.db", "etc/banger/config.toml"}
    assert list(tree.at(layout.COMMANDS).iterdir()) == []
    assert not tree.at(layout.RUN).exists()


@pytest.mark.usefixtures("small")
def test_purging_leaves_nothing(tree: Tree, owner: Owner) -> None:
    setup.put_files(tree, owner, quietly)
    (tree.at(layout.STATE) / "state.db").touch()
    (tree.at(layout.CONFIGURATION) / "config.toml").touch()
    removal.remove_files(tree, purge=True)
    removal.remove_files(tree, purge=True)
    assert files(tree.root) == set()
    assert not tree.at(layout.STATE).exists()


def test_the_program_runs_from_where_it_is_put(
    tree: Tree, owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The commands name the place by its absolute path.
    monkeypatch.setattr(layout, "PROGRAM", tree.at(layout.PROGRAM))
    placed = Tree(Path("/"), tree.undo)
    monkeypatch.setattr(layout, "COMMANDS", tmp_path / "bin")
    try:
        program.put_program(placed)
    except PermanentError as error:
        pytest.skip(error.message)
    command = tmp_path / "bin/banger"
    done = subprocess.run([command, "version"], capture_output=True, text=True, cwd="/")
    assert done.stdout.startswith(f"banger {banger.__version__}\n"), done.stderr
    bangerd = subprocess.run([tmp_path / "bin/bangerd", "--version"], capture_output=True)
    assert bangerd.stdout.decode() == f"bangerd {banger.__version__}\n"


def test_everything_that_banger_needs_is_found() -> None:
    names = {package.name.lower() for package in program.distributions()}
    assert {"banger", "click", "msgspec", "starlette", "uvicorn", "h11", "anyio"} <= names
    assert not names & {"pytest", "mypy", "pip"}


def test_the_helper_reads_what_was_written(tmp_path: Path, owner: Owner) -> None:
    written = Metadata(owner='o"dd', owner_uid=1000, owner_gid=1001, version="1", installed_at=1)
    file = tmp_path / "install.toml"
    file.write_text(written.render())
    assert read_metadata(file) == written
    assert site._number(tomllib.loads(written.render()), "owner_uid", "") == 1000


def test_metadata_that_is_damaged_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "install.toml"
    file.write_text("owner = 3")
    with pytest.raises(PermanentError, match="not what banger wrote"):
        read_metadata(file)


def test_nothing_installed_is_an_error_only_where_it_is_needed(tmp_path: Path) -> None:
    assert read_metadata(tmp_path / "none") is None
    with pytest.raises(CallerError) as raised:
        require_metadata(tmp_path / "none")
    assert raised.value.code is ErrorCode.NOT_INSTALLED


@pytest.mark.parametrize(("name", "said"), [("root", "root cannot"), ("no-such", "no user")])
def test_the_owner_is_an_ordinary_user(name: str, said: str) -> None:
    with pytest.raises(CallerError, match=said):
        find_owner(name)


def test_the_owner_is_who_called_sudo() -> None:
    assert find_owner(None, {"SUDO_USER": "daemon"}).name == "daemon"
    with pytest.raises(CallerError, match="not said"):
        find_owner(None, {})


def test_a_python_that_others_can_change_is_not_run_by_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "python"
    fake.touch(mode=0o755)
    monkeypatch.setattr(program, "_usable", lambda python: os.fspath(fake) != python and False)
    with pytest.raises(PermanentError, match="not a Python that root owns"):
        program.interpreter()
    monkeypatch.undo()
    assert not program._usable(str(fake))
