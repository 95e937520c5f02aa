"""Questions as bytes, and answers taken apart: written against RFC 1035, not against our code."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from banger.network.dns.zone import Directory, Zone

SUBNET = IPv4Network("10.213.0.0/16")
DEV = IPv4Address("10.213.0.16")

A, NS, SOA, PTR, TXT, AAAA, OPT, AXFR, ANY = 1, 2, 6, 12, 16, 28, 41, 252, 255


@dataclass(frozen=True)
class Answer:
    """A message we got back."""

    ident: int
    flags: int
    counts: tuple[int, int, int, int]
    rest: bytes

    @property
    def code(self) -> int:
        return self.flags & 15

    @property
    def authoritative(self) -> bool:
        return bool(self.flags & 0x0400)

    @property
    def truncated(self) -> bool:
        return bool(self.flags & 0x0200)


def zone() -> Zone:
    """A zone with one VM, `dev`."""
    names = Directory()
    names.add("dev", DEV)
    return Zone(names, SUBNET)


def encoded(name: str) -> bytes:
    labels = [label.encode() for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def question(
    name: str, kind: int = A, cls: int = 1, flags: int = 0x0100, *, additional: bytes = b""
) -> bytes:
    """A question; `additional` is one encoded record to go along."""
    header = struct.pack("!6H", 0x1234, flags, 1, 0, 0, 1 if additional else 0)
    return header + encoded(name) + struct.pack("!HH", kind, cls) + additional


def opt(version: int = 0, size: int = 1232, flags: int = 0, data: bytes = b"") -> bytes:
    return b"\0" + struct.pack("!HHBBHH", OPT, size, 0, version, flags, len(data)) + data


def taken_apart(packet: bytes | None) -> Answer:
    assert packet is not None
    ident, flags, *counts = struct.unpack_from("!6H", packet)
    one, two, three, four = counts
    assert flags & 0x8000, "an answer says that it is one"
    assert not flags & 0x0080, "recursion is never available"
    return Answer(ident, flags, (one, two, three, four), packet[12:])
