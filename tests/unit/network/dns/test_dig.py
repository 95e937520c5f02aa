"""The server as `dig`, a client that is not ours, sees it."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from tests.unit.network.dns.conftest import GENEROUS, Serve

from banger.network.dns.limits import Limits

pytestmark = pytest.mark.skipif(shutil.which("dig") is None, reason="dig is not installed")


async def dig(port: int, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *("dig", "@127.0.0.1", "-p", str(port), "+tries=1", "+time=5", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text
    # What dig says when it finds fault with a message.
    assert ";; Warning" not in text or "recursion requested but not available" in text
    assert "malformed" not in text
    return text


@pytest.mark.parametrize("how", ["+notcp", "+tcp", "+noedns", "+edns=0", "+dnssec", "+nocookie"])
async def test_a_name_is_found_however_it_is_asked_for(serve: Serve, how: str) -> None:
    async with serve() as (_, port):
        text = await dig(port, "dev.vm", how)

    assert "status: NOERROR" in text
    assert "flags: qr aa rd;" in text
    assert "dev.vm.\t\t\t0\tIN\tA\t10.213.0.16" in text


async def test_the_size_we_take_is_told(serve: Serve) -> None:
    async with serve() as (_, port):
        assert "; EDNS: version: 0, flags:; udp: 1232" in await dig(port, "dev.vm", "+bufsize=512")


async def test_a_later_edns_is_negotiated_down(serve: Serve) -> None:
    async with serve() as (_, port):
        assert "status: BADVERS" in await dig(port, "dev.vm", "+edns=1", "+noednsnegotiation")
        assert "10.213.0.16" in await dig(port, "dev.vm", "+edns=1", "+short")


async def test_the_letters_come_back_as_they_were_sent(serve: Serve) -> None:
    async with serve() as (_, port):
        assert "dEv.Vm.\t\t\t0\tIN\tA\t10.213.0.16" in await dig(port, "dEv.Vm")


@pytest.mark.parametrize("kind", ["AAAA", "TXT", "MX", "HTTPS", "SRV"])
async def test_other_types_have_no_data(serve: Serve, kind: str) -> None:
    async with serve() as (_, port):
        text = await dig(port, "dev.vm", kind)

    assert "status: NOERROR" in text
    assert "ANSWER: 0, AUTHORITY: 1" in text
    assert "vm.\t\t\t0\tIN\tSOA\tvm. nobody.invalid. 1 3600 600 86400 0" in text


async def test_an_unknown_name_does_not_exist(serve: Serve) -> None:
    async with serve() as (_, port):
        text = await dig(port, "gone.vm")

    assert "status: NXDOMAIN" in text
    assert "SOA\tvm." in text


async def test_an_address_is_looked_up_backwards(serve: Serve) -> None:
    async with serve() as (_, port):
        assert await dig(port, "-x", "10.213.0.16", "+short") == "dev.vm.\n"
        assert "status: NXDOMAIN" in await dig(port, "-x", "10.213.0.17")
        assert "status: REFUSED" in await dig(port, "-x", "10.214.0.16")


@pytest.mark.parametrize("words", [("example.com",), ("version.bind", "CH", "TXT"), (".", "NS")])
async def test_nothing_else_is_answered(serve: Serve, words: tuple[str, ...]) -> None:
    async with serve() as (_, port):
        assert "status: REFUSED" in await dig(port, *words)


async def test_other_opcodes_are_not_implemented(serve: Serve) -> None:
    async with serve() as (_, port):
        assert "status: NOTIMP" in await dig(port, "dev.vm", "+opcode=notify", "+noedns")


async def test_several_questions_share_a_connection(serve: Serve) -> None:
    async with serve() as (server, port):
        text = await dig(port, "+tcp", "+keepopen", "+short", "dev.vm", "gone.vm", "DEV.vm")
        assert server.counters.connections == 1

    assert text.count("10.213.0.16") == 2


async def test_whoever_was_too_fast_gets_it_over_tcp(serve: Serve) -> None:
    drained = Limits(source_rate=50.0, source_burst=0.5, total_rate=GENEROUS.total_rate)
    async with serve(drained) as (server, port):
        server.counters.refused_by_rate = 7
        text = await dig(port, "dev.vm")

    assert ";; Truncated, retrying in TCP mode." in text
    assert "10.213.0.16" in text
