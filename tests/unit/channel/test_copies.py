"""Files and trees to a guest and back: the real agent on this host."""

from __future__ import annotations

import hashlib
import os
import pwd
import random
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.channel.test_trees import make_tree, snapshot
from tests.unit.channel.waiting import eventually

from banger.api.errors import CallerError, PermanentError
from banger.channel.calls import GuestCalls
from banger.channel.frames import Kind
from banger.channel.requests import (
    Get,
    Got,
    GuestHealth,
    GuestStats,
    Health,
    Listeners,
    Ports,
    Put,
    Stats,
    Written,
)
from banger.channel.serial import SerialChannel
from banger.channel.trees import TreeWriter, send_tree


def put(calls: GuestCalls, source: Path, path: Path | str, user: str = "root") -> Written:
    request = Put(path=str(path), name=source.name, user=user)
    return calls.ask(request, Written, source=send_tree(source, print))


def get(calls: GuestCalls, path: Path, folder: Path, name: str) -> tuple[Got, list[str]]:
    notes: list[str] = []
    writer = TreeWriter(folder, name, notes.append)
    got = calls.ask(Get(path=str(path)), Got, sink=lambda _, data: writer.feed(data))
    assert writer.complete
    writer.close()
    return got, notes


def test_a_tree_goes_there_and_back(calls: GuestCalls, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    (tmp_path / "guest").mkdir()
    written = put(calls, tmp_path / "tree", tmp_path / "guest")
    get(calls, tmp_path / "guest" / "tree", tmp_path, "back")

    assert written.path == str(tmp_path / "guest" / "tree")
    assert snapshot(tmp_path / "guest" / "tree") == snapshot(tmp_path / "tree")
    assert snapshot(tmp_path / "back") == snapshot(tmp_path / "tree")


def test_a_file_keeps_its_mode_and_replaces_another(calls: GuestCalls, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("new")
    (tmp_path / "file").chmod(0o6751)
    (tmp_path / "there").write_text("old and longer")
    put(calls, tmp_path / "file", tmp_path / "there")

    assert (tmp_path / "there").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o6751


def test_a_link_that_is_named_is_followed(calls: GuestCalls, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "link").symlink_to("file")
    get(calls, tmp_path / "link", tmp_path, "got")
    put(calls, tmp_path / "link", tmp_path / "put")

    assert not (tmp_path / "got").is_symlink()
    assert (tmp_path / "got").read_text() == (tmp_path / "put").read_text() == "content"


def test_links_out_of_a_guests_tree_are_left_out(calls: GuestCalls, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "out").symlink_to("/etc/passwd")
    (tmp_path / "tree" / "in").symlink_to("out")
    os.mkfifo(tmp_path / "tree" / "pipe")
    got, notes = get(calls, tmp_path / "tree", tmp_path, "got")

    assert [path.name for path in (tmp_path / "got").iterdir()] == ["in"]
    assert got.skipped == ("./pipe",)
    assert len(notes) == 1
    assert "'/etc/passwd' leads out" in notes[0]


def test_raw_content_goes_both_ways(calls: GuestCalls, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(3_000_000)
    request = Put(path=str(tmp_path / "f"), name="stdin", format="raw", mode=0o640)
    calls.ask(request, Written, source=iter([data[:1000], data[1000:]]))
    back = bytearray()
    got = calls.ask(
        Get(path=str(tmp_path / "f"), format="raw"), Got, sink=lambda _, d: back.extend(d)
    )

    assert bytes(back) == data
    assert (got.size, got.mode) == (len(data), 0o640)


@pytest.mark.slow
def test_a_hundred_megabytes_are_copied_exactly(calls: GuestCalls, tmp_path: Path) -> None:
    block = random.Random(3).randbytes(1 << 20)
    given, got = hashlib.sha256(), hashlib.sha256()

    def source() -> Iterator[bytes]:
        for number in range(100):
            data = number.to_bytes(4, "big") + block[4:]
            given.update(data)
            yield data

    def sink(kind: Kind, data: bytes) -> None:
        got.update(data)

    path = str(tmp_path / "big")
    calls.ask(Put(path=path, name="big", format="raw"), Written, source=source())
    calls.ask(Get(path=path, format="raw"), Got, sink=sink)

    assert given.digest() == got.digest()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Get(path="/no/such/thing"), "No such file"),
        (Get(path="/dev/null"), "not a regular file"),
        (Get(path="/etc", format="raw"), "is a directory"),
        (Get(path="no-such-thing-at-home"), "No such file"),
    ],
)
def test_what_cannot_be_got_says_why(calls: GuestCalls, request_: Get, reason: str) -> None:
    with pytest.raises((CallerError, PermanentError), match=reason):
        calls.ask(request_, Got)


@pytest.mark.parametrize("path", ["{}/no/such/place", "{}/no/"])
def test_what_cannot_be_put_leaves_nothing(calls: GuestCalls, tmp_path: Path, path: str) -> None:
    with pytest.raises((CallerError, PermanentError)):
        calls.ask(Put(path=path.format(tmp_path), name="x", format="raw"), Written)

    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_breaks_off_leaves_what_was_there(
    channel: SerialChannel, calls: GuestCalls, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("old")

    class BrokenError(Exception):
        pass

    def source() -> Iterator[bytes]:
        yield b"new" * 100_000
        raise BrokenError

    with pytest.raises(BrokenError):
        calls.ask(
            Put(path=str(tmp_path / "file"), name="x", format="raw"), Written, source=source()
        )

    # Nothing tells when the agent has noticed.
    eventually(lambda: [path.name for path in tmp_path.iterdir()] == ["file"])
    assert (tmp_path / "file").read_text() == "old"
    assert isinstance(calls.ask(Health(), GuestHealth), GuestHealth)


@pytest.mark.skipif(os.geteuid() != 0, reason="switching users takes root")
def test_copies_are_a_users_own(calls: GuestCalls, tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    for parent in (tmp_path, *tmp_path.parents):
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)

    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", nobody.pw_uid, nobody.pw_gid)
    (tmp_path / "file").write_text("x")
    put(calls, tmp_path / "file", tmp_path / "theirs", user="nobody")

    assert (tmp_path / "theirs" / "file").stat().st_uid == nobody.pw_uid
    with pytest.raises(PermanentError, match="Permission denied"):
        put(calls, tmp_path / "file", tmp_path / "root-owned", user="nobody")


def test_the_guest_tells_how_it_is(calls: GuestCalls) -> None:
    health = calls.ask(Health(system=True), GuestHealth)
    stats = calls.ask(Stats(), GuestStats)

    assert health.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert health.hostname == os.uname().nodename
    assert health.system
    assert 0 < stats.memory_available <= stats.memory_total
    assert [disk.path for disk in stats.disks] == ["/", "/root"]


def test_ports_are_told_with_who_listens(calls: GuestCalls) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
    ):
        six.bind(("::1", 0))
        ports = four.getsockname()[1], six.getsockname()[1]
        found = calls.ask(Ports(), Listeners).ports

    ours = [one for one in found if one.pid == os.getpid()]
    assert {(one.protocol, one.address, one.port) for one in ours} == {
        ("tcp", "127.0.0.1", ports[0]),
        ("udp", "::1", ports[1]),
    }
    assert {one.process for one in ours} == {Path("/proc/self/comm").read_text().strip()}
