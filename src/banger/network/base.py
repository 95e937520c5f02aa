"""The contract between the daemon and a way of connecting guests."""

from __future__ import annotations

import msgspec


class GuestNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """The guest's own view: what its network configuration files say. `address` is plain IPv4."""

    mac: str
    address: str
    prefix: int
    gateway: str
    dns: tuple[str, ...]
