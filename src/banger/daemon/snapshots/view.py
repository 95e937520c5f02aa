"""Snapshots as the API shows them, with what each alone takes on the disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import PermanentError
from banger.api.models import Snapshot
from banger.daemon.snapshots.checkpoint import directory_of
from banger.daemon.store.rows import Layers, SnapshotRow, VMRow
from banger.daemon.vms.layers import SERIALS, path_of
from banger.daemon.vms.machine import Site
from banger.host.files import allocated_bytes
from banger.host.threads import in_thread
from banger.storage.layers import chain, is_layer


@dataclass(frozen=True, slots=True)
class Exclusive:
    """Bytes on disk that each snapshot alone holds on to, by its id."""

    sizes: dict[str, int]

    @classmethod
    async def of(cls, site: Site) -> Exclusive:
        """As it is now."""
        snapshots = await site.store.snapshots()
        others = [row.handles.disks for row in await site.store.vms()]
        others += [row.disks for row in await site.store.templates()]
        return cls(await in_thread(_measure, site, snapshots, others))


def snapshot_of(row: SnapshotRow, vm: VMRow, exclusive: Exclusive) -> Snapshot:
    """The snapshot `row` of `vm`."""
    return Snapshot(
        id=row.id,
        name=row.name or row.id,
        vm_id=vm.id,
        vm=vm.name,
        created_at=row.created_at,
        memory=row.memory is not None,
        spec=row.spec,
        allocated_bytes=exclusive.sizes.get(row.id, 0),
    )


def _measure(site: Site, snapshots: list[SnapshotRow], others: list[Layers]) -> dict[str, int]:
    held = {row.id: _members(row.disks) for row in snapshots}
    holders = Counter(path for disks in others for path in _members(disks))
    holders.update(path for members in held.values() for path in members)
    return {
        row.id: allocated_bytes(directory_of(site, row))
        + sum(allocated_bytes(path) for path in held[row.id] if holders[path] == 1)
        for row in snapshots
    }


def _members(disks: Layers) -> set[Path]:
    members: set[Path] = set()
    for serial in SERIALS:
        try:
            members.update(path for path in chain(path_of(disks, serial)) if is_layer(path))
        except PermanentError:
            # Whoever goes back to it is told; a list has to come nevertheless.
            continue

    return members
