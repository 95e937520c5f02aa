"""Ports published on an installed host: the daemon holds them, the packet filter leads past it.

The root helper is one in memory, but the gate that its policies pass is the real one, and so are
the sockets; what the filter does is in tests/unit/network/bridge.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.unit.daemon.vms.installed import Root
from tests.unit.daemon.vms.world import Daemon, daemon, failed_with

from banger.api.errors import ErrorCode
from banger.api.models import CreateVM, PortForward, UpdateVM, VMState
from banger.network import ports
from banger.network.ports import port_free
from banger.privileged import ops

LOOPBACK = "127.0.0.1"


@pytest.fixture
def life(tmp_path: Path, root: Root) -> Callable[..., AbstractAsyncContextManager[Daemon]]:
    return partial(daemon, tmp_path, root.processes, path=root.open)


@pytest.fixture
async def host(life: Callable[..., Any]) -> AsyncIterator[Daemon]:
    async with life() as one:
        yield one


@pytest.fixture
def port() -> Iterator[int]:
    """One that nobody has, and nobody is given by the kernel while this test has it bound."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.2", 0))
        yield reserved.getsockname()[1]


async def create(one: Daemon, name: str, port: int, **fields: Any) -> str | None:
    forward = PortForward(host_port=port, guest_port=80, **fields)
    return failed_with(await one.done(await one.vms.create(CreateVM(name=name, ports=(forward,)))))


def published(root: Root) -> list[ops.Publication]:
    assert root.policy is not None
    return [one for guest in root.policy.guests for one in guest.published]


def publication(port: int) -> ops.Publication:
    return ops.Publication(address=LOOPBACK, port=port, guest_port=80)


async def test_a_port_is_published_and_held_while_the_vm_runs(
    host: Daemon, root: Root, port: int
) -> None:
    assert await create(host, "dev", port) is None
    assert published(root) == [publication(port)]
    assert not port_free(LOOPBACK, port, "tcp")

    await host.done(await host.vms.stop("dev"))
    assert published(root) == []
    assert port_free(LOOPBACK, port, "tcp")

    await host.done(await host.vms.start("dev"))
    assert published(root) == [publication(port)]
    await host.done(await host.vms.delete("dev"))
    assert published(root) == []
    assert port_free(LOOPBACK, port, "tcp")


async def test_another_vms_port_is_refused_also_while_that_is_stopped(
    host: Daemon, port: int
) -> None:
    await create(host, "dev", port)
    await host.done(await host.vms.stop("dev"))
    assert await create(host, "other", port) == ErrorCode.PORT_TAKEN
    assert [vm.name for vm in await host.vms.list()] == ["dev"]


@pytest.mark.parametrize(("mine", "theirs"), [(LOOPBACK, "0.0.0.0"), ("0.0.0.0", LOOPBACK)])
async def test_a_port_that_the_host_listens_on_is_refused(
    host: Daemon, mine: str, theirs: str
) -> None:
    with socket.create_server((theirs, 0)) as server:
        port = server.getsockname()[1]
        assert await create(host, "dev", port, host_ip=mine) == ErrorCode.PORT_TAKEN

    assert await create(host, "dev", port, host_ip=mine) is None


async def test_a_start_without_its_port_leaves_nothing(host: Daemon, root: Root, port: int) -> None:
    await create(host, "dev", port)
    await host.done(await host.vms.stop("dev"))
    with socket.create_server((LOOPBACK, port)):
        assert failed_with(await host.done(await host.vms.start("dev"))) == ErrorCode.PORT_TAKEN
        assert (await host.vms.show("dev")).state is VMState.STOPPED

    assert not root.speakers
    assert failed_with(await host.done(await host.vms.start("dev"))) is None


async def test_a_start_that_root_does_not_help_with_lets_go_of_the_port(
    host: Daemon, root: Root, port: int
) -> None:
    await create(host, "dev", port)
    await host.done(await host.vms.stop("dev"))
    root.failing.add(ops.ApplyPolicy)
    assert failed_with(await host.done(await host.vms.start("dev"))) is not None
    root.failing.clear()
    await host.done(await host.vms.stop("dev"))
    assert published(root) == []
    assert port_free(LOOPBACK, port, "tcp")


async def test_what_a_vm_publishes_can_be_changed(host: Daemon, root: Root, port: int) -> None:
    await host.create("dev")
    await host.done(await host.vms.stop("dev"))
    forward = PortForward(host_port=port, guest_port=80)
    await host.done(await host.vms.update("dev", UpdateVM(ports=(forward,))))
    await host.done(await host.vms.start("dev"))
    assert published(root) == [publication(port)]


async def test_the_next_daemon_goes_on_publishing(
    life: Callable[..., Any], root: Root, port: int
) -> None:
    async with life() as one:
        await create(one, "dev", port)

    assert port_free(LOOPBACK, port, "tcp")
    async with life() as two:
        assert published(root) == [publication(port)]
        assert not port_free(LOOPBACK, port, "tcp")
        assert (await two.vms.show("dev")).state is VMState.RUNNING
        await two.done(await two.vms.stop("dev"))

    assert port_free(LOOPBACK, port, "tcp")


async def test_a_port_lost_while_no_daemon_ran_is_not_published_and_hurts_nobody_else(
    life: Callable[..., Any], root: Root, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with life() as one:
        await create(one, "dev", port)
        await one.create("other")

    with socket.create_server((LOOPBACK, port)):
        async with life() as two:
            assert published(root) == []
            assert len(root.speakers) == 2
            assert f"{LOOPBACK}:{port}/tcp: it is in use" in caplog.text
            assert [vm.state for vm in await two.vms.list()] == [VMState.RUNNING] * 2
            await two.done(await two.vms.stop("dev"))


async def test_a_port_that_is_roots_alone_is_refused_and_why_is_said(
    host: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(ports, "hold", forbidden)
    wanted = CreateVM(name="dev", ports=(PortForward(host_port=1023, guest_port=80),))
    refused = await host.done(await host.vms.create(wanted))
    assert failed_with(refused) == ErrorCode.PORT_TAKEN
    assert refused.error is not None
    assert "only root may listen there" in refused.error.message
