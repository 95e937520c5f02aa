"""Paths: nothing outside the managed roots is ever reached, whatever is swapped in meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.privileged.outcome import fault_of

from banger.privileged.faults import Fault, FaultCode
from banger.privileged.gates import paths

ME = os.getuid()


class Tree:
    """A managed root with files in it, a secret beside it, and ways from one to the other."""

    def __init__(self, top: Path) -> None:
        self.root = top / "root"
        (self.root / "a" / "b").mkdir(parents=True)
        for name in ("file", "a/file", "a/b/file"):
            (self.root / name).write_text("inside")

        self.secret = top / "secret"
        (self.secret / "b").mkdir(parents=True)
        for name in ("file", "b/file"):
            (self.secret / name).write_text("outside")

        (self.root / "link").symlink_to(self.secret)
        (self.root / "a" / "up").symlink_to("..")
        (self.root / "name").symlink_to(self.secret / "file")
        (self.root / "within").symlink_to("file")
        (self.root / "magic").symlink_to("/proc/self/root")

    def read(self, path: str) -> str:
        with paths.opened(path, [str(self.root)], ME, os.O_RDONLY) as descriptor:
            return os.read(descriptor, 100).decode()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("paths").resolve())


def refusal(tree: Tree, path: str) -> FaultCode:
    with pytest.raises(Fault) as caught:
        tree.read(path)

    return caught.value.code


def test_a_file_below_a_root_is_opened(tree: Tree) -> None:
    assert tree.read(f"{tree.root}/a/b/file") == "inside"


@pytest.mark.parametrize(
    "path",
    [
        "link/file", "name", "within", "a/up/file", "magic/etc/passwd", "../secret/file", "./file",
        "a//file", "a/../file", "file/", "a/./file", "file/x", "",
    ],
)  # fmt: skip
def test_no_other_way_leads_to_a_file(tree: Tree, path: str) -> None:
    assert refusal(tree, f"{tree.root}/{path}") is FaultCode.REFUSED


@pytest.mark.parametrize("path", ["{secret}/file", "{root}", "{root}x/file", "root/file", "/", ""])
def test_what_is_not_below_a_root_is_refused(tree: Tree, path: str) -> None:
    path = path.format(root=tree.root, secret=tree.secret)

    assert refusal(tree, path) is FaultCode.REFUSED


def test_what_is_not_there_is_said_to_be_not_there(tree: Tree) -> None:
    assert refusal(tree, f"{tree.root}/a/nothing") is FaultCode.NOT_FOUND
    assert refusal(tree, f"{tree.root}/nothing/file") is FaultCode.NOT_FOUND


PARTS = st.lists(
    st.sampled_from(
        ["a", "b", "file", "link", "up", "name", "within", "magic", "..", ".", "", "etc"]
    ),
    min_size=1,
    max_size=6,
)


@given(PARTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_path_only_the_inside_is_read(tree: Tree, parts: list[str]) -> None:
    path = f"{tree.root}/{'/'.join(parts)}"
    fault = fault_of(lambda: tree.read(path))

    assert fault in (None, FaultCode.REFUSED, FaultCode.NOT_FOUND)
    if fault is None:
        assert tree.read(path) == "inside"
        assert not set(parts) & {"link", "up", "name", "within", "magic", "..", ".", ""}


def test_only_regular_files_are_opened_and_nothing_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))

    for name in ("fifo", "directory", "socket"):
        with (
            pytest.raises(Fault),
            paths.opened(f"{tmp_path}/{name}", [str(tmp_path)], ME, os.O_RDONLY),
        ):
            raise AssertionError(name)


def test_another_users_file_is_refused_under_any_name(tmp_path: Path) -> None:
    """A hard link is how anybody's file gets below a root."""
    (tmp_path / "file").write_text("")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/hard").hardlink_to(tmp_path / "file")

    with (
        pytest.raises(Fault, match="does not belong"),
        paths.pinned(f"{tmp_path}/root/hard", [f"{tmp_path}/root"], ME + 1),
    ):
        raise AssertionError


def test_what_was_looked_at_is_what_is_worked_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("inside")
    (tmp_path / "other").write_text("outside")
    with paths.opened(f"{tmp_path}/file", [str(tmp_path)], ME, os.O_RDONLY) as descriptor:
        (tmp_path / "other").replace(tmp_path / "file")

        assert os.read(descriptor, 100) == b"inside"


@contextlib.contextmanager
def swapping(place: Path, other: Path) -> Iterator[None]:
    """Exchange `place` with a symlink to `other` as fast as can be, until the block ends."""
    aside, link = place.with_name("aside"), place.with_name("swap")
    stop = threading.Event()

    def swap() -> None:
        link.symlink_to(other)
        while not stop.is_set():
            place.rename(aside)
            link.rename(place)
            place.rename(link)
            aside.rename(place)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("victim", ["a", "a/b", "a/b/file"])
def test_a_symlink_swapped_in_on_the_way_changes_nothing(tmp_path: Path, victim: str) -> None:
    tree = Tree(tmp_path.resolve())
    target = {"a": tree.secret, "a/b": tree.secret / "b", "a/b/file": tree.secret / "file"}[victim]
    (tree.secret / "a").mkdir()
    (tree.secret / "a" / "b").symlink_to("../b")
    seen: set[str] = set()
    with swapping(tree.root / victim, target):
        for attempt in itertools.count():
            # It has to be a race, in which both the file and the symlink are met.
            if attempt >= 3000 and seen >= {"inside", "refused"}:
                break

            try:
                seen.add(tree.read(f"{tree.root}/a/b/file"))
            except Fault as fault:
                seen.add(fault.code)

    assert "outside" not in seen


def test_no_descriptor_is_left_open(tree: Tree) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in ("a/b/file", "link/file", "a/nothing", "a/b/file/x", "../secret/file"):
        with contextlib.suppress(Fault):
            tree.read(f"{tree.root}/{path}")

    assert len(list(Path("/proc/self/fd").iterdir())) == before
