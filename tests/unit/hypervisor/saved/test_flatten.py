"""Chains of disk layers made short while a real QEMU writes to them."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from tests.unit.hypervisor.checkpoints import disk, overlay, read, write
from tests.unit.hypervisor.guests import (
    digest,
    top_node,
)

from banger.api.errors import ErrorCode, PermanentError
from banger.hypervisor.base import VMMHandle
from banger.hypervisor.qemu.driver import Qemu

CLUSTER = 65536


async def test_a_flattened_disk_has_its_content_and_fewer_layers(
    qemu: Qemu, running: VMMHandle, home: Path
) -> None:
    layers = [home / "root"]
    for number in range(3):
        await write(qemu, running, "root", number + 1, at=number * CLUSTER)
        layers.append(overlay(home / f"layer{number}", layers[-1]))
        stream = home / f"stream{number}"
        await qemu.save(running, stream, [disk("root", layers[-1])], resume=True)

    await write(qemu, running, "root", 9, at=3 * CLUSTER)
    before = [digest(layer) for layer in layers[:-1]]

    await qemu.flatten(running, "root", layers[0])
    await qemu.kill(running, signal.SIGKILL)

    assert [digest(layer) for layer in layers[:-1]] == before
    for layer in layers[1:-1]:
        layer.unlink()

    assert [read(layers[-1], at * CLUSTER) for at in range(4)] == [1, 2, 3, 9]


async def test_a_flattening_that_is_cancelled_leaves_the_disk_as_it_was(
    qemu: Qemu, running: VMMHandle, home: Path
) -> None:
    layers = [home / "root", overlay(home / "middle", home / "root")]
    await qemu.save(running, home / "s0", [disk("root", layers[1])], resume=True)
    await write(qemu, running, "root", 5)
    layers.append(overlay(home / "top", layers[1]))
    await qemu.save(running, home / "s1", [disk("root", layers[2])], resume=True)

    for turns in range(12):
        flattening = asyncio.create_task(qemu.flatten(running, "root", layers[0]))
        for _ in range(turns):
            await asyncio.sleep(0)

        flattening.cancel()
        await asyncio.wait([flattening])

    # Nothing of it is in the way.
    assert await qemu.top(running, "root") == layers[2]
    await qemu.flatten(running, "root", layers[0])
    await qemu.kill(running, signal.SIGKILL)
    layers[1].unlink()
    assert read(layers[2]) == 5


async def test_a_job_of_an_earlier_daemon_is_not_in_the_way(
    qemu: Qemu, running: VMMHandle, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    middle = overlay(home / "middle", home / "root")
    await write(qemu, running, "root", 6)
    await qemu.save(running, home / "s0", [disk("root", middle)], resume=True)
    top = overlay(home / "top", middle)
    await qemu.save(running, home / "s1", [disk("root", top)], resume=True)
    qmp = await qemu._monitor(running).qmp()
    pending = qmp.expect(lambda event: event.name == "BLOCK_JOB_PENDING")
    node = await top_node(qmp)
    await qmp.run("block-stream", {"job-id": "left", "device": node, "auto-finalize": False})
    await pending

    newest = overlay(home / "newest", top)
    await qemu.save(running, home / "s2", [disk("root", newest)], resume=True)

    assert await qemu.top(running, "root") == newest


async def test_a_bottom_that_is_not_below_is_refused(
    qemu: Qemu, running: VMMHandle, home: Path
) -> None:
    with pytest.raises(PermanentError) as raised:
        await qemu.flatten(running, "root", home / "nowhere")

    assert raised.value.code is ErrorCode.SAVE_FAILED
