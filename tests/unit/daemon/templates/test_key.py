"""The key changes with everything that decides whether a saved guest will do, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.daemon.vms.world import Daemon, Processes, daemon

from banger.api.models import PortForward, VMSpec
from banger.api.sizes import GIB
from banger.daemon.templates.key import KEY_LENGTH, Ingredients, Keys, template_key

SOME = Ingredients(
    image="i1",
    kernel="k1",
    initramfs="k1-f1.cpio",
    cmdline="quiet",
    vcpus=2,
    memory=GIB,
    root_size=8 * GIB,
    disk_size=8 * GIB,
    vmm="QEMU 7.2.9, tcg, processor 0",
)

SPEC = VMSpec(image="tiny", vcpus=2, memory=GIB, root_size=8 * GIB, disk_size=8 * GIB)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with daemon(tmp_path, Processes()) as life:
        yield life


@pytest.mark.parametrize("field", Ingredients.__struct_fields__)
def test_every_ingredient_counts(field: str) -> None:
    value = getattr(SOME, field)
    other: Any = value + 1 if isinstance(value, int) else f"{value} or another"

    assert template_key(msgspec.structs.replace(SOME, **{field: other})) != template_key(SOME)


def test_the_same_ingredients_are_the_same_key_short_enough_for_a_socket_path() -> None:
    key = template_key(SOME)

    assert key == template_key(msgspec.structs.replace(SOME))
    assert len(key) == KEY_LENGTH
    assert int(key, 16) >= 0


@pytest.mark.parametrize(
    "change",
    [{"vcpus": 3}, {"memory": 2 * GIB}, {"root_size": 9 * GIB}, {"disk_size": 9 * GIB}],
    ids=lambda change: next(iter(change)),
)
async def test_another_shape_is_another_key(host: Daemon, change: dict[str, int]) -> None:
    keys = Keys(host.site)
    other = msgspec.structs.replace(SPEC, **change)

    assert await keys.of(other, "i1", "k1") != await keys.of(SPEC, "i1", "k1")


async def test_image_kernel_and_vmm_make_another_key(host: Daemon) -> None:
    keys = Keys(host.site)
    seen = [await keys.of(SPEC, image, kernel) for image, kernel in (("i1", "k1"), ("i2", "k1"))]
    seen.append(await keys.of(SPEC, "i1", "k2"))
    host.hypervisor.version = "2"
    seen.append(await keys.of(SPEC, "i1", "k1"))

    assert len(set(seen)) == 4


async def test_what_each_clone_is_given_or_the_host_does_makes_no_difference(host: Daemon) -> None:
    keys = Keys(host.site)
    ports = (PortForward(host_port=8080, guest_port=80),)
    other = msgspec.structs.replace(SPEC, nat=True, ports=ports)

    assert await keys.of(other, "i1", "k1") == await keys.of(SPEC, "i1", "k1")
