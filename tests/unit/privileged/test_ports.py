"""The gate of published ports, against this process's own sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.network.ports import hold
from banger.privileged.faults import Fault
from banger.privileged.gates import ports
from banger.privileged.ops import Protocol, Publication

ME = os.getuid()


@pytest.fixture(scope="module")
def held() -> Iterator[dict[Protocol, int]]:
    """One port of 127.0.0.1 for each protocol."""
    with hold("127.0.0.1", 0, "tcp") as tcp, hold("127.0.0.1", 0, "udp") as udp:
        yield {Protocol.TCP: tcp.getsockname()[1], Protocol.UDP: udp.getsockname()[1]}


def one(
    protocol: Protocol, port: int, address: str = "127.0.0.1", guest_port: int = 80
) -> Publication:
    return Publication(address=address, port=port, guest_port=guest_port, protocol=protocol)


@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_port_where_the_owner_listens_passes(
    held: dict[Protocol, int], protocol: Protocol
) -> None:
    ports.published([one(protocol, held[protocol])], ME)
    with pytest.raises(Fault, match="does not listen"):
        ports.published([one(protocol, held[protocol])], ME + 1)

    with pytest.raises(Fault, match="does not listen"):
        ports.published([one(protocol, held[protocol], "0.0.0.0")], ME)


@given(
    st.lists(
        st.builds(
            Publication,
            address=st.sampled_from(["127.0.0.1", "0.0.0.0", "224.0.0.1", "::1", "x", ""]),
            port=st.integers(-1, 2**17),
            guest_port=st.integers(-1, 2**17),
            protocol=st.sampled_from(Protocol),
        )
    ),
    st.integers(-1, 2**17),
    st.sampled_from(["127.0.0.1", "127.0.0.2", "0.0.0.0", "255.255.255.255", "a b"]),
)
def test_nothing_passes_but_what_is_held(
    held: dict[Protocol, int], others: list[Publication], guest_port: int, address: str
) -> None:
    wanted = [*others, one(Protocol.TCP, held[Protocol.TCP], address, guest_port)]
    try:
        ports.published(wanted, ME)
    except Fault:
        return

    assert wanted == [one(Protocol.TCP, held[Protocol.TCP], "127.0.0.1", guest_port)]
    assert 1 <= guest_port <= 65535


def test_a_port_is_published_once(held: dict[Protocol, int]) -> None:
    port = held[Protocol.TCP]
    with pytest.raises(Fault, match="twice"):
        ports.published([one(Protocol.TCP, port), one(Protocol.TCP, port, guest_port=81)], ME)


def test_a_connection_of_the_owners_is_no_listener() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        pytest.raises(Fault, match="does not listen"),
    ):
        ports.published([one(Protocol.TCP, client.getsockname()[1])], ME)
