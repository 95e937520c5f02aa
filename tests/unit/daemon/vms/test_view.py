"""What lists say of disks: what they take now, without looking twice at what cannot change."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.unit.daemon.rows import vm_row

from banger.api.sizes import MIB
from banger.daemon.store.rows import DiskFile, Layers, VMRow
from banger.daemon.vms.view import DiskSizes
from banger.storage.layers import allocated
from banger.storage.qcow2 import Qcow2


@pytest.fixture
async def row(tmp_path: Path) -> VMRow:
    """A VM with a layer of a MiB below each of its tops."""
    disks = []
    for serial, digit in (("root", "a"), ("work", "b")):
        below, top = tmp_path / f"{digit * 12}.raw", tmp_path / f"{digit * 12}.qcow2"
        below.write_bytes(b"x" * MIB)
        await Qcow2().overlay(below, top)
        disks.append((serial, DiskFile(path=str(top), format="qcow2")))

    made = vm_row()
    handles = msgspec.structs.replace(made.handles, disks=Layers(**dict(disks)))
    return msgspec.structs.replace(made, handles=handles)


async def test_layers_count_and_so_does_what_is_written_later(row: VMRow) -> None:
    sizes = DiskSizes()
    before = sizes.of(row)
    assert before >= 2 * MIB

    top = Path(row.handles.disks.root.path)
    top.write_bytes(top.read_bytes() + b"x" * MIB)
    assert sizes.of(row) - before >= MIB


async def test_what_lies_below_is_looked_at_again_only_when_the_row_changes(
    row: VMRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []

    def look(top: Path) -> int:
        looked.append(top)
        return allocated(top)

    monkeypatch.setattr("banger.daemon.vms.view.allocated", look)
    sizes = DiskSizes()
    first = [sizes.of(row) for _ in range(3)]
    assert (len(set(first)), len(looked)) == (1, 2)

    sizes.of(msgspec.structs.replace(row, updated_at=row.updated_at + 1))
    assert len(looked) == 4
    sizes.forget_others([])
    sizes.of(row)
    assert len(looked) == 6


def test_disks_that_are_gone_take_nothing() -> None:
    assert DiskSizes().of(vm_row()) == 0
