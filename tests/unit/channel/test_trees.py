"""Copies of a guest's: written where they belong and nowhere else, whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.channel import tar, trees
from banger.channel.tar import Member, Type
from banger.channel.trees import TreeWriter, destination, send_tree, stays_inside


class Receiver:
    """Writes archives into a directory, remembering what was left out."""

    def __init__(self, folder: Path) -> None:
        self.notes: list[str] = []
        self.writer = TreeWriter(folder, "copy", self.notes.append)

    def take(self, *members: tuple[Member, bytes] | Member) -> None:
        for one in members:
            member, content = (one, b"") if isinstance(one, Member) else one
            member = member._replace(size=len(content))
            self.writer.feed(tar.header(member) + content + tar.padding(len(content)))


@pytest.fixture
def there(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    return tmp_path / "there"


@pytest.fixture
def receiver(there: Path) -> Iterator[Receiver]:
    receiver = Receiver(there)
    yield receiver
    receiver.writer.close()


def folder(name: bytes, mode: int = 0o755) -> Member:
    return Member(name, Type.DIRECTORY, mode)


def file(name: bytes, content: bytes = b"content", mode: int = 0o644) -> tuple[Member, bytes]:
    return Member(name, Type.FILE, mode), content


def link(name: bytes, target: bytes) -> Member:
    return Member(name, Type.SYMLINK, 0o777, link=target)


def snapshot(top: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything at and below `top`: mode, time, and content or target."""
    found = {}
    for path in [top, *top.rglob("*")]:
        status = path.lstat()
        content = b""
        if path.is_symlink():
            content = os.fsencode(path.readlink())
        elif path.is_file():
            content = path.read_bytes()

        mtime = 0 if path.is_symlink() else int(status.st_mtime)
        found[str(path.relative_to(top))] = (status.st_mode, mtime, content)

    return found


def make_tree(top: Path) -> None:
    (top / "empty").mkdir(parents=True)
    (top / "deep" / ("x" * 200) / ("y" * 200)).mkdir(parents=True)
    (top / "deep" / ("x" * 200) / ("y" * 200) / "\udcff odd \n name").write_bytes(os.urandom(1000))
    (top / "program").write_bytes(os.urandom(600_000))
    (top / "program").chmod(0o751)
    (top / "nothing").touch()
    (top / "one block").write_bytes(bytes(512))
    (top / "link").symlink_to("program")
    (top / "deep" / "up").symlink_to("../program")
    (top / "closed").mkdir()
    (top / "closed" / "inside").write_text("inside")
    (top / "closed").chmod(0o555)
    os.utime(top / "deep", (1, 1_000_000_000))


def test_a_tree_is_the_same_on_the_other_side(tmp_path: Path, there: Path) -> None:
    make_tree(tmp_path / "tree")
    receiver = Receiver(there)
    for piece in send_tree(tmp_path / "tree", receiver.notes.append):
        receiver.writer.feed(piece)

    assert receiver.writer.complete
    receiver.writer.close()
    assert snapshot(there / "copy") == snapshot(tmp_path / "tree")
    assert receiver.notes == []


def test_what_is_no_file_is_left_out_and_said(tmp_path: Path) -> None:
    notes: list[str] = []
    os.mkfifo(tmp_path / "pipe")
    archive = b"".join(send_tree(tmp_path, notes.append))

    assert notes == [f"left out {tmp_path}/pipe: neither a file nor a directory"]
    assert b"pipe" not in archive


def test_modes_that_lend_rights_are_not_taken_over(receiver: Receiver, there: Path) -> None:
    receiver.take(folder(b".", 0o7777), file(b"./su", mode=0o6755))
    receiver.writer.feed(tar.END)

    assert stat.S_IMODE((there / "copy" / "su").stat().st_mode) == 0o755
    assert stat.S_IMODE((there / "copy").stat().st_mode) == 0o777


@pytest.mark.parametrize(
    "name",
    [
        b"x",
        b"/etc/x",
        b"../x",
        b"./../x",
        b"./a/../../x",
        b"./",
        b".//x",
        b"./a/./x",
        b"..",
        b"./..",
    ],
)
def test_names_that_lead_elsewhere_are_refused(
    receiver: Receiver, there: Path, name: bytes
) -> None:
    receiver.take(folder(b"."), folder(b"./a"))
    with pytest.raises(PermanentError) as caught:
        receiver.take(file(name))

    assert caught.value.code is ErrorCode.COPY_REFUSED
    assert {path.name for path in there.parent.rglob("*")} == {"there", "copy", "a"}


def test_no_path_goes_through_a_link(receiver: Receiver, there: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    receiver.take(folder(b"."), folder(b"./real"), link(b"./inner", b"real"))
    (there / "copy" / "outer").symlink_to(tmp_path / "secret")
    for way in (b"./inner/x", b"./outer/x"):
        with pytest.raises(PermanentError):
            receiver.take(file(way))

        with pytest.raises(PermanentError):
            receiver.take(folder(way[:-2]))

    assert list((tmp_path / "secret").iterdir()) == []
    assert list((there / "copy" / "real").iterdir()) == []


def test_a_file_replaces_a_link_instead_of_writing_through_it(
    receiver: Receiver, there: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("mine")
    (there / "copy").mkdir()
    (there / "copy" / "x").symlink_to(tmp_path / "mine")
    receiver.take(folder(b"."), file(b"./x", b"theirs"))

    assert (tmp_path / "mine").read_text() == "mine"
    assert (there / "copy" / "x").read_text() == "theirs"


@pytest.mark.parametrize(
    ("target", "depth", "inside"),
    [
        (b"x", 0, True),
        (b"a/b/c", 0, True),
        (b"../x", 0, False),
        (b"../x", 1, True),
        (b"../../x", 1, False),
        (b"./../x", 1, True),
        (b"a/../x", 5, False),  # a may itself be a link
        (b"../a/..", 5, False),
        (b"/etc/passwd", 5, False),
        (b"", 5, False),
        (b"..", 1, True),
        (b"..", 0, False),
    ],
)
def test_links_must_stay_inside(target: bytes, depth: int, inside: bool) -> None:
    assert stays_inside(target, depth) is inside


part = st.sampled_from([b"a", b"b", b"c"])
step = st.sampled_from([b"a", b"b", b"c", b"..", b".", b""])


@given(
    st.lists(
        st.tuples(
            st.lists(part, min_size=1, max_size=4), st.lists(step, max_size=5), st.booleans()
        ),
        max_size=12,
    )
)
def test_nothing_a_guest_sends_reaches_outside(
    tmp_path_factory: pytest.TempPathFactory,
    sent: list[tuple[list[bytes], list[bytes], bool]],
) -> None:
    there = tmp_path_factory.mktemp("there")
    receiver = Receiver(there)
    receiver.take(folder(b"."))
    for path, target, is_link in sent:
        name = b"./" + b"/".join(path)
        try:
            receiver.take(link(name, b"/".join(target)) if is_link else folder(name))
        except PermanentError:
            continue

    receiver.writer.close()
    top = (there / "copy").resolve()
    for found in top.rglob("*"):
        # Loops lead nowhere, which is inside enough.
        if not found.is_symlink() or found.exists():
            assert found.resolve().is_relative_to(top)


def test_what_does_not_come_whole_leaves_nothing(receiver: Receiver, there: Path) -> None:
    receiver.take(folder(b"."), file(b"./done"))
    receiver.writer.feed(tar.header(Member(b"./half", Type.FILE, 0o644, 1000)) + bytes(500))
    receiver.writer.close()
    receiver.writer.close()

    assert [path.name for path in (there / "copy").iterdir()] == ["done"]


def test_a_directory_in_the_way_of_a_file_is_refused(receiver: Receiver, there: Path) -> None:
    receiver.take(folder(b"."), folder(b"./x"))
    with pytest.raises(PermanentError):
        receiver.take(file(b"./x"))

    assert [path.name for path in (there / "copy").iterdir()] == ["x"]


def test_room_on_the_disk_is_checked_before_it_is_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "_RESERVE", 1 << 60)
    with pytest.raises(PermanentError) as caught:
        receiver.take(file(b"."))

    assert caught.value.code is ErrorCode.INSUFFICIENT_DISK


def test_files_are_counted(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "_MAX_MEMBERS", 3)
    receiver.take(folder(b"."), file(b"./1"), file(b"./2"))
    with pytest.raises(PermanentError):
        receiver.take(file(b"./3"))


def test_a_copy_goes_where_cp_would_put_it(tmp_path: Path) -> None:
    assert destination(tmp_path, "name") == (tmp_path, "name")
    assert destination(tmp_path / "new", "name") == (tmp_path, "new")
    for path, name in ((tmp_path / "no" / "new", "name"), (tmp_path, ".."), (tmp_path, "")):
        with pytest.raises(CallerError):
            destination(path, name)
