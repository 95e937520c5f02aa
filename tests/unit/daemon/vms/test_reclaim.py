"""A running VM gives the host what memory it does not need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.daemon.vms.world import Daemon, Processes, daemon, failed_with

from banger.api.errors import ErrorCode
from banger.api.sizes import MIB
from banger.daemon.vms.reclaim import KEPT


@pytest.fixture
async def host(tmp_path: Path, processes: Processes) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path, processes) as life:
        assert failed_with(await life.create("dev")) is None
        yield life


async def test_all_that_is_available_but_a_reserve_is_reclaimed_and_told(
    host: Daemon, processes: Processes
) -> None:
    operation = await host.done(await host.vms.reclaim("dev"))

    assert failed_with(operation) is None
    (guest,) = processes.guests.values()
    assert guest.reclaimed == 400 * MIB - KEPT
    assert [stage.detail for stage in operation.stages] == ["384M"]


async def test_one_that_stands_still_is_not_asked(host: Daemon, processes: Processes) -> None:
    await host.done(await host.vms.pause("dev"))

    assert failed_with(await host.done(await host.vms.reclaim("dev"))) == ErrorCode.VM_NOT_RUNNING

    (guest,) = processes.guests.values()
    assert guest.reclaimed == 0


async def test_a_vmm_that_cannot_leaves_the_vm_running(host: Daemon) -> None:
    host.hypervisor.failing.add("reclaim")

    assert failed_with(await host.done(await host.vms.reclaim("dev"))) == ErrorCode.VM_NOT_RUNNING
    assert (await host.vms.show("dev")).state == "running"
