"""Archives: held against the standard library's, against the agent's, and against rubbish."""

from __future__ import annotations

import io
import os
import tarfile
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.channel import tar
from banger.channel.tar import Content, Member, MemberEnd, Parser, TarError, TarEvent, Type
from banger.guest.agent import archive as agent

names = st.lists(
    st.binary(min_size=1, max_size=60).filter(lambda name: not set(name) & {0, 47}), min_size=1
).map(lambda parts: b"./" + b"/".join(parts))
members = st.builds(
    Member,
    name=names,
    type=st.sampled_from(Type),
    mode=st.integers(0, 0o7777),
    mtime=st.integers(0, 8**11 - 1),
    link=st.binary(min_size=1, max_size=300).filter(lambda link: 0 not in link),
)
trees = st.lists(st.tuples(members, st.binary(max_size=2000)), max_size=6)


def tidy(member: Member, content: bytes) -> tuple[Member, bytes]:
    if member.type is not Type.SYMLINK:
        member = member._replace(link=b"")

    content = content if member.type is Type.FILE else b""
    return member._replace(size=len(content)), content


def written(tree: list[tuple[Member, bytes]]) -> bytes:
    pieces = [tar.header(member) + content + tar.padding(len(content)) for member, content in tree]
    return b"".join(pieces) + tar.END


def collected(events: list[TarEvent]) -> list[tuple[Member, bytes]]:
    tree: list[tuple[Member, bytes]] = []
    ends = 0
    for event in events:
        if isinstance(event, Member):
            tree.append((event, b""))
        elif isinstance(event, Content):
            tree[-1] = (tree[-1][0], tree[-1][1] + event.data)
        elif isinstance(event, MemberEnd):
            ends += 1

    assert ends == len(tree)
    return tree


@given(trees, st.integers(1, 1500))
def test_what_is_written_is_read_however_it_is_cut(
    tree: list[tuple[Member, bytes]], cut: int
) -> None:
    tree = [tidy(*one) for one in tree]
    archive = written(tree)
    parser, events = Parser(), list[TarEvent]()
    for start in range(0, len(archive), cut):
        events += parser.feed(archive[start : start + cut])

    assert collected(events) == tree
    assert parser.ended


@given(trees)
def test_other_programs_read_the_same(tree: list[tuple[Member, bytes]]) -> None:
    tree = [tidy(*one) for one in tree]
    with tarfile.open(fileobj=io.BytesIO(written(tree)), errors="surrogateescape") as archive:
        for info, (member, content) in zip(archive, tree, strict=True):
            # As tarfile has it, a name has no slash at its end.
            assert os.fsencode(info.name) == member.name.rstrip(b"/")
            assert (info.mode, info.mtime, info.size) == (member.mode, member.mtime, member.size)
            assert os.fsencode(info.linkname) == member.link
            if member.type is Type.FILE:
                file = archive.extractfile(info)
                assert file is not None
                assert file.read() == content


@given(trees)
def test_the_agent_writes_and_reads_the_same_bytes(tree: list[tuple[Member, bytes]]) -> None:
    tree = [tidy(*one) for one in tree]
    for member, _ in tree:
        theirs = agent.Member(
            os.fsdecode(member.name),
            member.type.value,
            member.mode,
            member.size,
            member.mtime,
            os.fsdecode(member.link),
        )
        assert agent.tar_header(theirs) == tar.header(member)

    reader, writer = os.pipe()
    sender = threading.Thread(target=_send, args=(writer, written(tree)))
    sender.start()
    archive = agent.TarReader(reader)
    got = [
        (os.fsencode(one.name), one.size, b"".join(archive.content())) for one in archive.members()
    ]
    sender.join()
    os.close(reader)

    assert got == [(member.name, member.size, content) for member, content in tree]


def _send(writer: int, data: bytes) -> None:
    with open(writer, "wb") as pipe:
        pipe.write(data)


@given(st.lists(st.binary(max_size=1200), max_size=6), trees, st.integers(0, 4000))
def test_rubbish_is_refused_or_waited_on_and_not_kept(
    rubbish: list[bytes], tree: list[tuple[Member, bytes]], at: int
) -> None:
    archive = written([tidy(*one) for one in tree])
    parser = Parser()
    try:
        for piece in [archive[:at], *rubbish, archive[at:]]:
            for event in parser.feed(piece):
                assert not isinstance(event, Content) or event.data
    except TarError:
        return

    assert parser.ended or len(parser._buffer) <= tar.MAX_PAX + 2 * tar.BLOCK


@pytest.mark.parametrize("size", [0, 8**11 - 1, 8**11, 2**62])
def test_sizes_of_any_file_fit(size: int) -> None:
    member = Member(b"./big", Type.FILE, 0o644, size)

    assert next(Parser().feed(tar.header(member))) == member


def with_checksum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def changed(at: int, text: bytes, kind: Type = Type.FILE) -> bytes:
    block = bytearray(tar.header(Member(b"./x", kind, 0o644)))
    block[at : at + len(text)] = text
    return with_checksum(block)


@pytest.mark.parametrize(
    "block",
    [
        changed(156, b"1"),  # a hard link
        changed(156, b"3"),  # a device
        changed(156, b"L"),  # GNU's long names
        changed(156, b"g"),  # a header for all that follows
        changed(124, b"-0000000001\0"),
        changed(124, b"\x80" + bytes(11)),  # a size in binary
        changed(0, bytes(10)),  # no name
        changed(124, b"00000000010\0", Type.DIRECTORY),
        changed(156, b"x")[:124] + b"00000200001\0" + changed(156, b"x")[136:],
        tar.header(Member(b"./x", Type.FILE, 0o644))[:-1] + b"x",
    ],
)
def test_what_no_agent_sends_is_refused(block: bytes) -> None:
    with pytest.raises(TarError):
        list(Parser().feed(block))


@pytest.mark.parametrize(
    "records", [b"99 path=x\n", b"5 a=\n ", b"x path=a\n", b"7 nothi", b"6 ab=c", b"-1 a=b\n"]
)
def test_broken_extended_headers_are_refused(records: bytes) -> None:
    block = bytearray(tar.header(Member(b"pax", Type.FILE, 0o644, len(records))))
    block[156:157] = b"x"
    with pytest.raises(TarError):
        list(Parser().feed(with_checksum(block) + records + tar.padding(len(records))))
