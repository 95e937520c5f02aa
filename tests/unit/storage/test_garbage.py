"""What nothing needs is found and removed, and nothing else ever is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.unit.storage.disks import write

from banger.api.errors import ErrorCode
from banger.api.sizes import MIB
from banger.host.files import allocated_bytes
from banger.host.runner import run
from banger.storage.garbage import Freed, Unreachable, list_layers, sweep, unreachable
from banger.storage.layers import chain, layer_path
from banger.storage.qcow2 import Qcow2

DISKS = Qcow2()


class Site:
    """A directory of layers over an image that lies elsewhere."""

    def __init__(self, root: Path) -> None:
        self.layers = root / "disks"
        self.layers.mkdir()
        self.image = root / "rootfs.ext4"
        self.image.touch()
        os.truncate(self.image, MIB)

    async def stack(self, below: Path, count: int) -> list[Path]:
        """`count` new layers, the top first."""
        made: list[Path] = []
        for _ in range(count):
            layer = layer_path(self.layers, "qcow2")
            await DISKS.overlay(made[0] if made else below, layer)
            made.insert(0, layer)

        return made

    def found(self, tops: Iterable[Path], *, idle: bool = False) -> Unreachable:
        return unreachable(list_layers(self.layers), tops, idle=idle)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_layers_below_a_top_are_needed(site: Site) -> None:
    shared = await site.stack(site.image, 2)
    first, second = await site.stack(shared[0], 1), await site.stack(shared[0], 2)
    assert site.found([first[0], second[0]]).files == ()
    assert site.found([first[0]]).files == tuple(second)
    assert set(site.found([shared[0]]).files) == {*first, *second}


async def test_overlays_go_before_what_they_lie_over(site: Site) -> None:
    shared = await site.stack(site.image, 3)
    await site.stack(shared[0], 2)
    await site.stack(shared[1], 2)
    garbage = site.found([]).files
    assert len(garbage) == 7
    for done in range(len(garbage) + 1):
        for kept in garbage[done:]:
            assert set(chain(kept)[:-1]) <= set(garbage[done:])


async def test_a_top_that_is_not_there_yet_is_fine(site: Site) -> None:
    future = layer_path(site.layers, "qcow2")
    assert site.found([future]) == Unreachable((), ())


async def test_tops_of_another_directory_keep_what_they_lie_over(
    site: Site, tmp_path: Path
) -> None:
    layers = await site.stack(site.image, 2)
    empty = tmp_path / "empty.qcow2"
    await DISKS.overlay(layers[0], empty)
    assert site.found([empty]).files == ()


async def test_the_directory_may_be_known_by_another_path(site: Site, tmp_path: Path) -> None:
    layers = await site.stack(site.image, 2)
    (tmp_path / "link").symlink_to(site.layers)
    listed = list_layers(tmp_path / "link")
    assert unreachable(listed, [layers[0]]).files == ()
    assert len(listed) == 2


async def test_as_long_as_a_chain_cannot_be_followed_any_layer_may_belong_to_it(
    site: Site,
) -> None:
    broken, others = await site.stack(site.image, 3), await site.stack(site.image, 2)
    broken[1].write_bytes(b"ruined")
    found = site.found([broken[0], others[1]])
    assert found.files == ()
    assert [error.code for error in found.unreadable] == [ErrorCode.STATE_CORRUPT]
    assert str(broken[1]) in found.unreadable[0].message


async def test_a_missing_layer_below_is_a_chain_that_cannot_be_followed(site: Site) -> None:
    broken = await site.stack(site.image, 3)
    broken[1].unlink()
    found = site.found([broken[0]])
    assert found.files == ()
    assert len(found.unreadable) == 1


async def test_garbage_that_cannot_be_read_is_garbage(site: Site) -> None:
    layers = await site.stack(site.image, 3)
    layers[1].write_bytes(b"ruined")
    found = site.found([])
    assert set(found.files) == set(layers)
    assert found.files.index(layers[0]) < found.files.index(layers[1])
    assert found.unreadable == ()


async def test_garbage_in_a_loop_is_garbage(site: Site) -> None:
    layers = await site.stack(site.image, 2)
    below = ("-b", layers[0], "-F", "qcow2")
    await run(["qemu-img", "rebase", "-u", "-f", "qcow2", *below, layers[1]])
    assert set(site.found([]).files) == set(layers)


@pytest.mark.parametrize(
    "name",
    [
        "0123456789ab.vmdk",
        "0123456789abc.qcow2",
        "0123456789AB.qcow2",
        "0123456789ab.qcow2.bak",
        "0123456789ab.qcow2.part.part",
        "0123456789ab.part",
        "0123456789ab",
        ".0123456789ab.raw",
        "notes.txt",
        "mine.part",
    ],
)
def test_what_is_no_layer_by_name_is_not_ours(site: Site, name: str) -> None:
    (site.layers / name).write_bytes(b"the user's")
    assert list_layers(site.layers) == ()


def test_only_files_are_layers(site: Site) -> None:
    (site.layers / "0123456789ab.raw").mkdir()
    (site.layers / "1123456789ab.raw").symlink_to(site.image)
    assert list_layers(site.layers) == ()


def test_no_directory_has_no_layers(tmp_path: Path) -> None:
    assert list_layers(tmp_path / "missing") == ()


async def test_unfinished_files_go_unless_somebody_may_be_at_work_on_them(site: Site) -> None:
    top, below = await site.stack(site.image, 2)
    future = layer_path(site.layers, "raw")
    parts = [site.layers / f"{name}.part" for name in (top.name, future.name)]
    abandoned = [site.layers / f"{below.name}.part", site.layers / "0123456789ab.raw.part"]
    for part in (*parts, *abandoned):
        part.write_bytes(b"half")

    assert set(site.found([top, future]).files) == set(abandoned)
    assert set(site.found([top, future], idle=True).files) == {*parts, *abandoned}


async def test_unfinished_files_go_even_if_a_chain_cannot_be_followed(site: Site) -> None:
    broken = await site.stack(site.image, 2)
    broken[1].unlink()
    part = site.layers / "0123456789ab.raw.part"
    part.touch()
    assert site.found([broken[0]]).files == (part,)


async def test_sweeping_removes_and_says_what_it_freed(site: Site) -> None:
    layers = await site.stack(site.image, 2)
    await write(layers[0], "write -P 1 0 1M")
    total = sum(allocated_bytes(layer) for layer in layers)
    freed = sweep(site.found([]).files)
    assert freed == Freed(tuple(layer.name for layer in layers), total)
    assert freed.allocated > MIB
    assert list_layers(site.layers) == ()


async def test_sweeping_what_is_gone_already_frees_nothing(site: Site) -> None:
    layers = await site.stack(site.image, 2)
    layers[0].unlink()
    assert sweep(layers).names == (layers[1].name,)
