"""DNS messages as bytes: the questions we read, the answers we give (RFC 1035, RFC 6891).

Only what an authoritative server for a few names needs. Reading is strict and bounded: a question
has one name without compression, at most a few additional records, and nothing behind them.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

# RFC 9715: what passes every link unfragmented. No answer of ours comes near.
UDP_SIZE = 1232
HEADER_SIZE = 12
MAX_NAME = 255
MAX_LABEL = 63
# An OPT record and a signature are all that well-meaning clients add.
MAX_ADDITIONAL = 4

_HEADER = struct.Struct("!6H")
_TYPE_CLASS = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")

_QR, _AA, _TC, _RD, _CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0010
_OPCODE = 0x7800
_POINTER = 0xC000
_DO = 0x8000


class RCode(IntEnum):
    """IANA, DNS RCODEs. BADVERS needs the OPT record's upper bits."""

    NOERROR = 0
    FORMERR = 1
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


class Type(IntEnum):
    """IANA, resource record types: those we have, or treat specially."""

    A = 1
    SOA = 6
    PTR = 12
    OPT = 41
    TKEY = 249
    MAILA = 254
    ANY = 255


class Class(IntEnum):
    """IANA, DNS classes."""

    IN = 1
    ANY = 255


class Unanswerable(Exception):  # noqa: N818 - a verdict on a packet
    """Nothing may be sent back: no header, or itself an answer (two servers would never stop)."""


class Malformed(Exception):  # noqa: N818 - a verdict on a packet
    """The question breaks the protocol; `reply` is the whole answer it gets."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply


class Edns(NamedTuple):
    """What a client's OPT record says of itself."""

    version: int
    dnssec_ok: bool


class Query(NamedTuple):
    """One question. `labels` are in lower case; `question` is as it came, to be sent back so."""

    ident: int
    flags: int
    question: bytes
    labels: tuple[bytes, ...]
    type: int
    cls: int
    edns: Edns | None

    def pointer(self, label: int) -> bytes:
        """A compressed name (RFC 1035, 4.1.4): the question's own, from its `label`th label on."""
        offset = HEADER_SIZE + sum(len(each) + 1 for each in self.labels[:label])
        return (_POINTER | offset).to_bytes(2, "big")


class Record(NamedTuple):
    """A resource record of class IN; `name` is encoded."""

    name: bytes
    type: int
    ttl: int
    data: bytes


class Reply(NamedTuple):
    """What is answered, before it is bytes."""

    code: RCode
    answer: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    truncated: bool = False


def parse(packet: bytes) -> Query:
    """The question in `packet`. Raises Unanswerable, Malformed; nothing else, whatever it is."""
    if len(packet) < HEADER_SIZE:
        raise Unanswerable

    ident, flags, questions, answers, authorities, additional = _HEADER.unpack_from(packet)
    if flags & _QR:
        raise Unanswerable

    if flags & _OPCODE:
        raise Malformed(_bare(ident, flags, RCode.NOTIMP))

    try:
        if (questions, answers, authorities) != (1, 0, 0) or additional > MAX_ADDITIONAL:
            raise _FormatError

        labels, end = _labels(packet)
        kind, cls = _unpack(_TYPE_CLASS, packet, end)
        end += _TYPE_CLASS.size
        edns, rest = _additional(packet, end, additional)
        if rest != len(packet):
            raise _FormatError
    except _FormatError:
        raise Malformed(_bare(ident, flags, RCode.FORMERR)) from None
    return Query(ident, flags, packet[HEADER_SIZE:end], labels, kind, cls, edns)


def build(query: Query, reply: Reply) -> bytes:
    """The message that answers `query`."""
    flags = _QR | query.flags & (_RD | _CD) | reply.code & 15
    if reply.answer or reply.authority:
        flags |= _AA

    if reply.truncated:
        flags |= _TC

    return b"".join(
        (
            _HEADER.pack(
                query.ident,
                flags,
                1,
                len(reply.answer),
                len(reply.authority),
                query.edns is not None,
            ),
            query.question,
            *map(_encode_record, reply.answer),
            *map(_encode_record, reply.authority),
            b"" if query.edns is None else _opt(query.edns, reply.code),
        )
    )


def encode_name(*labels: bytes) -> bytes:
    """`labels` as an uncompressed name; the root, without any."""
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


class _FormatError(Exception):
    pass


def _labels(packet: bytes) -> tuple[tuple[bytes, ...], int]:
    labels: list[bytes] = []
    at = HEADER_SIZE
    while True:
        length = _byte(packet, at)
        at += 1
        # The terminating byte counts too; a longer label is a pointer, which has no business here.
        if length > MAX_LABEL or at + length - HEADER_SIZE > MAX_NAME:
            raise _FormatError

        if length == 0:
            return tuple(labels), at

        labels.append(packet[at : at + length].lower())
        at += length


def _additional(packet: bytes, at: int, count: int) -> tuple[Edns | None, int]:
    edns = None
    for _ in range(count):
        start = at
        at = _skip_name(packet, at)
        kind, _size, ttl, length = _unpack(_RECORD, packet, at)
        at += _RECORD.size + length
        if at > len(packet):
            raise _FormatError

        if kind != Type.OPT:
            continue

        if edns is not None or packet[start] != 0:
            raise _FormatError

        # RFC 6891, 6.1.3: extended code, version, flags where other records have a TTL.
        edns = Edns(version=ttl >> 16 & 0xFF, dnssec_ok=bool(ttl & _DO))
    return edns, at


def _skip_name(packet: bytes, at: int) -> int:
    end = at + MAX_NAME
    while at < end:
        length = _byte(packet, at)
        if length >= _POINTER >> 8:
            return at + 2

        if length > MAX_LABEL:
            break

        at += 1 + length
        if length == 0:
            return at

    raise _FormatError


def _byte(packet: bytes, at: int) -> int:
    if at >= len(packet):
        raise _FormatError

    return packet[at]


def _unpack(layout: struct.Struct, packet: bytes, at: int) -> tuple[int, ...]:
    if at + layout.size > len(packet):
        raise _FormatError

    return layout.unpack_from(packet, at)


def _bare(ident: int, flags: int, code: RCode) -> bytes:
    return _HEADER.pack(ident, _QR | flags & (_OPCODE | _RD | _CD) | code, 0, 0, 0, 0)


def _encode_record(record: Record) -> bytes:
    fixed = _RECORD.pack(record.type, Class.IN, record.ttl, len(record.data))
    return record.name + fixed + record.data


def _opt(edns: Edns, code: RCode) -> bytes:
    ttl = (code >> 4) << 24 | (_DO if edns.dnssec_ok else 0)
    return b"\0" + _RECORD.pack(Type.OPT, UDP_SIZE, ttl, 0)
