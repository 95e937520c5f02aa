"""The server's sockets: many questions, bad manners, floods. Real sockets on loopback."""

from __future__ import annotations

import asyncio
import random
import socket
from dataclasses import replace
from typing import Self

import pytest
from tests.unit.network.dns.conftest import GENEROUS, Serve
from tests.unit.network.dns.messages import opt, question, taken_apart, zone

from banger.api.errors import ErrorCode, PermanentError
from banger.network.dns.limits import Limits
from banger.network.dns.server import DnsServer

MUTATED = 100_000
GOOD = question("dev.vm", additional=opt())


class Client:
    """A UDP socket that talks to the server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect(("127.0.0.1", port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    async def ask(self, packet: bytes) -> bytes:
        self.socket.send(packet)
        return await asyncio.get_running_loop().sock_recv(self.socket, 65535)

    def drain(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(65535))
            except BlockingIOError:
                return found


def framed(*packets: bytes) -> bytes:
    return b"".join(len(each).to_bytes(2, "big") + each for each in packets)


async def next_answer(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


async def turns(count: int) -> None:
    """Let the server have the loop for a while."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_udp_and_tcp_answer_alike_on_the_same_port(serve: Serve) -> None:
    async with serve() as (_, port):
        with Client(port) as client:
            over_udp = await client.ask(GOOD)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(framed(GOOD))
        assert await next_answer(reader) == over_udp
        writer.close()


async def test_a_port_somebody_has_is_refused_with_advice(serve: Serve) -> None:
    async with serve() as (_, port):
        with pytest.raises(PermanentError) as refusal:
            DnsServer(zone()).listen("127.0.0.1", port)

    assert refusal.value.code is ErrorCode.PORT_TAKEN
    assert str(port) in str(refusal.value.hint)


async def test_it_can_listen_before_the_address_is_there() -> None:
    server = DnsServer(zone())
    assert server.listen("10.213.0.1", 0)
    await server.close()


async def test_closing_frees_the_port(serve: Serve) -> None:
    async with serve() as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    server = DnsServer(zone())
    assert server.listen("127.0.0.1", port) == port
    await server.close()
    writer.close()


async def test_pipelined_questions_are_answered_in_order(serve: Serve) -> None:
    async with serve() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        questions = [n.to_bytes(2, "big") + GOOD[2:] for n in range(200)]
        writer.write(framed(*questions))
        answers = [await next_answer(reader) for _ in questions]
        writer.close()

    assert [taken_apart(answer).ident for answer in answers] == list(range(200))


async def test_a_question_may_arrive_byte_by_byte(serve: Serve) -> None:
    async with serve() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in framed(GOOD):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)

        assert taken_apart(await next_answer(reader)).code == 0
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [b"\0\0", b"\xff\xff" + GOOD, framed(b"short"), framed(question("x.vm", flags=0x8000))],
    ids=["empty", "huge", "no header", "an answer"],
)
async def test_a_stream_that_makes_no_sense_is_closed(serve: Serve, sent: bytes) -> None:
    async with serve() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await read_to_the_end(reader) == b""
        writer.close()


async def test_whoever_says_nothing_is_hung_up_on(serve: Serve) -> None:
    async with serve(replace(GENEROUS, idle=0.05)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await read_to_the_end(reader) == b""
        writer.close()


async def test_whoever_stops_in_the_middle_is_hung_up_on(serve: Serve) -> None:
    async with serve(replace(GENEROUS, idle=0.05)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(framed(GOOD)[:10])
        assert await read_to_the_end(reader) == b""
        writer.close()


async def test_whoever_asks_without_reading_is_hung_up_on(serve: Serve) -> None:
    async with serve(replace(GENEROUS, idle=0.05)) as (server, port):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        # Answers fill both kernels' buffers, then the server waits, and then it does not.
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await loop.sock_sendall(sock, framed(GOOD) * 1_000_000)
        sock.close()
        with Client(port) as client:
            assert await client.ask(GOOD)
        assert server.counters.connections == 1


async def test_silent_connections_make_room_for_new_ones(serve: Serve) -> None:
    async with serve(replace(GENEROUS, connections=4)) as (_, port):
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        reader, writer = opened[-1]
        writer.write(framed(GOOD))
        assert taken_apart(await next_answer(reader)).code == 0
        assert [await read_to_the_end(each) for each, _ in opened[:8]] == [b""] * 8
        for _, each in opened:
            each.close()


async def test_mutated_packets_leave_it_serving(serve: Serve) -> None:
    chance = random.Random(20260)
    async with serve() as (server, port):
        with Client(port) as client:
            for sent in range(MUTATED):
                client.socket.send(mutated(chance))
                if sent % 64 == 0:
                    await turns(8)
                    client.drain()

            client.drain()
            answer = await client.ask(b"\xab\xcd" + GOOD[2:])
            while answer[:2] != b"\xab\xcd":
                answer = await asyncio.get_running_loop().sock_recv(client.socket, 65535)

        assert taken_apart(answer).counts == (1, 1, 0, 1)
        assert server.counters.answered > MUTATED / 4


async def test_mutated_streams_leave_it_serving(serve: Serve) -> None:
    chance = random.Random(20261)
    async with serve() as (_, port):
        for _ in range(MUTATED // 500):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(framed(*(mutated(chance) for _ in range(4))) + b"\0")
            writer.write_eof()
            await read_to_the_end(reader)
            writer.close()

        with Client(port) as client:
            assert taken_apart(await client.ask(GOOD)).code == 0


async def test_a_flood_is_thinned_out_and_sent_to_tcp(serve: Serve) -> None:
    limits = replace(GENEROUS, source_rate=0.001, source_burst=20.0)
    async with serve(limits) as (server, port):
        with Client(port) as client:
            answers = []
            for _ in range(100):
                client.socket.send(GOOD)
                await turns(3)
                answers += client.drain()

        verdicts = [taken_apart(each).truncated for each in answers]
        assert verdicts == [False] * 20 + [True] * 10
        assert server.counters.refused_by_rate == 80


async def test_over_tcp_a_flood_waits_its_turn(serve: Serve) -> None:
    async with serve(replace(GENEROUS, source_rate=200.0, source_burst=1.0)) as (_, port):
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = loop.time()
        writer.write(framed(*[GOOD] * 11))
        for _ in range(11):
            assert taken_apart(await next_answer(reader)).code == 0

        # A lower bound only: a slow machine makes it more.
        assert loop.time() - began >= 0.045
        writer.close()


async def test_when_everything_is_used_up_it_pauses_and_goes_on(serve: Serve) -> None:
    limits = Limits(source_rate=1e9, source_burst=1e9, total_rate=100.0, total_burst=5.0)
    async with serve(limits) as (server, port):
        loop = asyncio.get_running_loop()
        with Client(port) as client:
            began = loop.time()
            for _ in range(40):
                client.socket.send(GOOD)

            await turns(50)
            early = server.counters.answered
            # The burst, what has come back since, and the one that finds the bucket empty.
            assert early <= 5 + 100.0 * (loop.time() - began) + 1
            for _ in range(min(early + 10, 40)):
                await loop.sock_recv(client.socket, 512)


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    """What is left until the peer closes; a reset is an end too."""
    try:
        rest = await reader.read()
    except ConnectionResetError:
        return b""
    return b"" if rest[2:4] == GOOD[:2] else rest[:0]


def mutated(chance: random.Random) -> bytes:
    """A good question with some of it changed, cut, doubled or made up."""
    packet = bytearray(GOOD)
    for _ in range(chance.randint(1, 5)):
        packet[chance.randrange(len(packet))] = chance.randrange(256)

    match chance.randrange(5):
        case 0:
            return bytes(packet[: chance.randrange(1, len(packet))])
        case 1:
            return bytes(packet) + chance.randbytes(chance.randrange(1, 64))
        case 2:
            return bytes(packet[:12]) + chance.randbytes(chance.randrange(1, 500))
        case _:
            return bytes(packet)
