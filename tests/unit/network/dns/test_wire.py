"""What is read and what is not: broken, strange and hostile packets."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.network.dns.messages import (
    AAAA,
    PTR,
    A,
    encoded,
    opt,
    question,
    taken_apart,
    zone,
)

FORMERR, NOTIMP, REFUSED, NOERROR = 1, 4, 5, 0
LONGEST = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 58, "vm"])
GOOD = question("dev.vm", additional=opt())


@given(st.binary(max_size=600))
def test_whatever_comes_nothing_but_an_answer_comes_back(packet: bytes) -> None:
    answer = zone().respond(packet)

    assert answer is None or taken_apart(answer).ident == int.from_bytes(packet[:2], "big")


@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(GOOD)),
    st.binary(max_size=20),
)
def test_a_damaged_question_is_answered_or_not_but_survived(
    changes: list[tuple[int, int]], cut: int, tail: bytes
) -> None:
    packet = bytearray(GOOD)
    for at, value in changes:
        packet[at] = value

    answer = zone().respond(bytes(packet[:cut]) + tail)

    assert answer is None or len(answer) <= 512


@pytest.mark.parametrize("size", range(12))
def test_less_than_a_header_is_not_answered(size: int) -> None:
    assert zone().respond(GOOD[:size]) is None


def test_an_answer_is_not_answered() -> None:
    assert zone().respond(question("dev.vm", flags=0x8180)) is None


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_requests_than_queries_are_not_implemented(opcode: int) -> None:
    answer = taken_apart(zone().respond(question("dev.vm", flags=opcode << 11)))

    assert (answer.code, answer.flags >> 11 & 15) == (NOTIMP, opcode)


@pytest.mark.parametrize("size", range(12, len(GOOD)))
def test_a_question_that_breaks_off_is_malformed(size: int) -> None:
    assert taken_apart(zone().respond(GOOD[:size])).code == FORMERR


@pytest.mark.parametrize(
    "packet",
    [
        struct.pack("!6H", 1, 0, 0, 0, 0, 0),
        struct.pack("!6H", 1, 0, 2, 0, 0, 0) + question("dev.vm")[12:] * 2,
        struct.pack("!6H", 1, 0, 1, 1, 0, 0) + question("dev.vm")[12:],
        question("dev.vm") + b"\0",
        struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\x01\0\x01",
        struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\x40dev\0\0\x01\0\x01",
        struct.pack("!6H", 1, 0, 1, 0, 0, 2) + question("dev.vm")[12:] + opt() + opt(),
        struct.pack("!6H", 1, 0, 1, 0, 0, 5) + question("dev.vm")[12:] + opt() * 5,
        struct.pack("!6H", 1, 0, 1, 0, 0, 1) + question("dev.vm")[12:] + b"\x01a" + opt(),
        question("dev.vm", additional=opt()[:-2] + b"\xff\xff"),
        question("x" + LONGEST),
    ],
)
def test_what_is_not_one_plain_question_is_malformed(packet: bytes) -> None:
    answer = taken_apart(zone().respond(packet))

    assert answer.code == FORMERR
    assert answer.counts == (0, 0, 0, 0)


def test_a_pointer_in_an_additional_record_is_stepped_over() -> None:
    record = b"\xc0\x0c" + struct.pack("!HHIH", 250, 255, 0, 3) + b"sig"

    assert taken_apart(zone().respond(question("dev.vm", additional=record))).code == NOERROR


def test_an_additional_name_of_single_letters_for_ever_is_malformed() -> None:
    endless = b"\x01a" * 200

    assert taken_apart(zone().respond(question("dev.vm", additional=endless))).code == FORMERR


@pytest.mark.parametrize("size", [0, 100, 512, 1232, 65535])
def test_edns_is_answered_with_edns_and_a_bounded_size(size: int) -> None:
    answer = taken_apart(zone().respond(question("dev.vm", additional=opt(size=size))))

    assert answer.counts == (1, 1, 0, 1)
    assert answer.rest.endswith(opt(size=1232))


def test_whoever_wants_dnssec_is_told_that_it_was_understood() -> None:
    answer = taken_apart(zone().respond(question("dev.vm", additional=opt(flags=0x8000))))

    assert answer.rest.endswith(opt(flags=0x8000))


def test_edns_options_nobody_knows_are_ignored() -> None:
    cookie = struct.pack("!HH", 10, 8) + b"12345678"

    assert taken_apart(zone().respond(question("dev.vm", additional=opt(data=cookie)))).code == 0


@pytest.mark.parametrize("version", [1, 2, 255])
def test_a_later_edns_is_a_bad_version(version: int) -> None:
    answer = taken_apart(zone().respond(question("dev.vm", additional=opt(version))))

    # BADVERS is 16: the upper bits are in the OPT record, whose version is ours.
    assert (answer.code, answer.counts) == (0, (1, 0, 0, 1))
    assert answer.rest.endswith(b"\0" + struct.pack("!HHBBHH", 41, 1232, 1, 0, 0, 0))


def test_without_edns_there_is_none_in_the_answer() -> None:
    assert taken_apart(zone().respond(question("dev.vm"))).counts == (1, 1, 0, 0)


def test_recursion_desired_and_checking_disabled_come_back() -> None:
    flags = taken_apart(zone().respond(question("dev.vm", flags=0x0110))).flags

    assert flags & 0x0110 == 0x0110


def test_whoever_is_too_fast_is_sent_to_tcp() -> None:
    answer = taken_apart(zone().respond(question("dev.vm"), truncate=True))

    assert (answer.truncated, answer.counts) == (True, (1, 0, 0, 0))


@pytest.mark.parametrize("name", ["dev.vm", "gone.vm", LONGEST, "16.0.213.10.in-addr.arpa"])
@pytest.mark.parametrize("kind", [A, AAAA, PTR])
def test_no_answer_needs_more_than_the_smallest_limit(name: str, kind: int) -> None:
    asked = question(name, kind, additional=opt())
    answer = zone().respond(asked)

    assert answer is not None
    assert len(answer) <= 512
    assert len(answer) <= len(asked) + 80, "no amplifier"


def test_the_longest_name_there_is_can_be_asked_for() -> None:
    assert len(encoded(LONGEST)) == 255
    assert taken_apart(zone().respond(question(LONGEST))).code == 3
