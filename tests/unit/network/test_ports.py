"""The host's ports: who may have one, which are free."""

from __future__ import annotations

import socket

import pytest

from banger.api.errors import ErrorCode, PermanentError
from banger.network.ports import pick_port, port_free, port_obstacle


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_is_free_until_somebody_has_it(protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        if protocol == "tcp":
            holder.listen()
        assert not port_free("127.0.0.1", port, protocol)
        assert port_obstacle("127.0.0.1", port, protocol) == "it is in use"
    assert port_free("127.0.0.1", port, protocol)


def test_a_port_is_not_free_when_another_listens_on_all_addresses() -> None:
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        assert not port_free("127.0.0.1", holder.getsockname()[1], "tcp")


@pytest.mark.parametrize(
    ("host_ip", "words"),
    [("192.0.2.1", "no such address"), ("localhost", "not an IPv4"), ("::1", "not an IPv4")],
)
def test_an_address_nobody_can_listen_on_is_explained(host_ip: str, words: str) -> None:
    obstacle = port_obstacle(host_ip, 22000, "tcp")
    assert obstacle is not None
    assert words in obstacle


def test_a_picked_port_is_neither_taken_nor_in_use() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        busy = holder.getsockname()[1]
        with pytest.raises(PermanentError) as refusal:
            pick_port(range(busy, busy + 1), ())
        assert refusal.value.code is ErrorCode.NETWORK_EXHAUSTED
    assert pick_port(range(busy, busy + 1), ()) == busy
    with pytest.raises(PermanentError):
        pick_port(range(busy, busy + 1), {busy})
