"""The rows banger keeps: VMs with their leases and snapshots, templates, operations."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeVar

import msgspec

from banger.api.errors import CallerError, ErrorBody, ErrorCode
from banger.api.models import Operation, OperationState
from banger.daemon.store.database import Database
from banger.daemon.store.failures import corrupt
from banger.daemon.store.rows import SnapshotRow, TemplateRow, VMRow, ended
from banger.host.files import sync
from banger.host.threads import in_thread

LeaseKind = Literal["address", "port"]
T = TypeVar("T")

OPERATIONS_KEPT = 1000

_ID_PREFIX = re.compile(r"[0-9a-f]{1,12}")
_encode = msgspec.json.Encoder().encode
_VM = msgspec.json.Decoder(VMRow)
_SNAPSHOT = msgspec.json.Decoder(SnapshotRow)
_TEMPLATE = msgspec.json.Decoder(TemplateRow)
_OPERATION = msgspec.json.Decoder(Operation)


@dataclass(frozen=True, slots=True)
class Lease:
    """Something of which each value belongs to at most one VM, for as long as the VM exists."""

    kind: LeaseKind
    value: str


@dataclass(frozen=True, slots=True)
class Census:
    """What owns files of banger's at one moment."""

    vms: Sequence[VMRow]
    snapshots: Sequence[SnapshotRow]
    templates: Sequence[TemplateRow]


class LeaseTaken(Exception):  # noqa: N818
    """`lease` belongs to another VM; the caller chooses another value."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(f"{lease.kind} {lease.value} is taken")
        self.lease = lease


class Store:
    """All that survives the daemon. Every method is one transaction and keeps the order of calls.

    A method that has returned has reached the disk. One that was told not to be `durable` survives
    the daemon but perhaps not the machine, unless a later one that is has returned. Any of them may
    raise PermanentError: insufficient_disk (nothing changed) or state_corrupt.
    """

    def __init__(self, path: Path, database: Database) -> None:
        self._path = path
        self._database = database

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open `path`, creating or migrating it.

        Raises PermanentError(state_corrupt) for a file that is damaged, not banger's, or written
        by a newer version; the file is then left as it was.
        """
        database = Database(path)
        await database.open()
        return cls(path, database)

    async def close(self) -> None:
        """Finish what was asked for and let go of the file."""
        await self._database.close()

    async def make_durable(self) -> None:
        """Have everything that was not told to be durable on the disk, too."""
        log = self._path.with_name(f"{self._path.name}-wal")
        with suppress(FileNotFoundError):
            await in_thread(sync, log)

    async def insert_vm(self, row: VMRow, leases: Sequence[Lease], *, durable: bool = True) -> None:
        """Add a VM together with its leases, or nothing.

        Raises CallerError(name_taken), or LeaseTaken with the first lease that is in use.
        """

        def work(connection: sqlite3.Connection) -> None:
            with _name_taken(row.name):
                connection.execute("INSERT INTO vms VALUES (?, ?, ?, ?, ?, ?)", _columns(row))

            _insert_leases(connection, row.id, leases)

        await self._database.write(work, durable=durable)

    async def save_vm(self, row: VMRow, *, durable: bool = True) -> None:
        """Replace a VM's row. Raises CallerError(unknown_vm, name_taken)."""

        def work(connection: sqlite3.Connection) -> None:
            identity, *columns = _columns(row)
            with _name_taken(row.name):
                cursor = connection.execute(
                    "UPDATE vms SET name = ?, state = ?, image_id = ?, kernel_id = ?, body = ?"
                    " WHERE id = ?",
                    (*columns, identity),
                )

            if cursor.rowcount == 0:
                raise _unknown(row.name)

        await self._database.write(work, durable=durable)

    async def delete_vm(self, vm_id: str) -> None:
        """Remove a VM and its leases, if it is there."""
        await self._database.write(
            lambda connection: connection.execute("DELETE FROM vms WHERE id = ?", (vm_id,))
        )

    async def set_leases(self, vm_id: str, leases: Sequence[Lease]) -> None:
        """Replace all leases of a VM, or none. Raises LeaseTaken, CallerError(unknown_vm)."""

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute("SELECT 1 FROM vms WHERE id = ?", (vm_id,)).fetchone() is None:
                raise _unknown(vm_id)

            connection.execute("DELETE FROM leases WHERE vm_id = ?", (vm_id,))
            _insert_leases(connection, vm_id, leases)

        await self._database.write(work)

    async def vm(self, vm_id: str) -> VMRow | None:
        """The VM with exactly this id."""
        rows = await self._select(_VM, "SELECT body FROM vms WHERE id = ?", vm_id)
        return rows[0] if rows else None

    async def find_vm(self, ref: str) -> VMRow:
        """The VM meant by `ref`: a name, else an id, else the beginning of exactly one id.

        Raises CallerError(unknown_vm, ambiguous_vm).
        """
        rows = await self._select(_VM, "SELECT body FROM vms WHERE name = ?", ref)
        if not rows and _ID_PREFIX.fullmatch(ref):
            rows = await self._select(
                _VM, "SELECT body FROM vms WHERE id BETWEEN ? AND ? LIMIT 5", ref, ref + "g"
            )

        rows = [row for row in rows if not row.standby]
        if not rows:
            raise _unknown(ref)

        if len(rows) > 1:
            raise _ambiguous(ref, rows)

        return rows[0]

    async def vms(self) -> list[VMRow]:
        """All VMs, by name."""
        return await self._select(_VM, "SELECT body FROM vms ORDER BY name")

    async def leases(self, kind: LeaseKind) -> set[str]:
        """All values of `kind` in use. Free a moment ago is not free now: inserting decides."""
        return await self._column("SELECT value FROM leases WHERE kind = ?", kind)

    async def images_in_use(self) -> set[str]:
        """Ids of the images on whose disks some VM, snapshot or template stands."""
        return await self._column(
            "SELECT image_id FROM vms UNION SELECT image_id FROM snapshots"
            " UNION SELECT image_id FROM templates"
        )

    async def kernels_in_use(self) -> set[str]:
        """Ids of the kernels some VM, snapshot or template boots."""
        return await self._column(
            "SELECT kernel_id FROM vms UNION SELECT kernel_id FROM snapshots"
            " UNION SELECT kernel_id FROM templates"
        )

    async def insert_snapshot(self, row: SnapshotRow) -> None:
        """Add a snapshot. Raises CallerError(name_taken), CallerError(unknown_vm)."""

        def work(connection: sqlite3.Connection) -> None:
            try:
                connection.execute(
                    "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?)",
                    (row.id, row.vm_id, row.name, row.image_id, row.kernel_id, _encode(row)),
                )
            except sqlite3.IntegrityError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
                    raise _unknown(row.vm_id) from error

                raise _snapshot_exists(row.name or "") from error

        await self._database.write(work)

    async def save_snapshot(self, row: SnapshotRow) -> None:
        """Replace a snapshot's row; nothing if it is gone."""
        await self._database.write(
            lambda connection: connection.execute(
                "UPDATE snapshots SET body = ? WHERE id = ?", (_encode(row), row.id)
            )
        )

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot's row, if it is there."""
        await self._database.write(
            lambda connection: connection.execute(
                "DELETE FROM snapshots WHERE id = ?", (snapshot_id,)
            )
        )

    async def snapshots(self, vm_id: str | None = None) -> list[SnapshotRow]:
        """The snapshots of one VM, or all, oldest first; those without a name too."""
        rows = await self._select(
            _SNAPSHOT, "SELECT body FROM snapshots WHERE vm_id = coalesce(?, vm_id)", vm_id
        )
        return sorted(rows, key=lambda row: row.created_at)

    async def save_template(self, row: TemplateRow) -> None:
        """Add or replace a template."""
        await self._database.write(
            lambda connection: connection.execute(
                "INSERT OR REPLACE INTO templates VALUES (?, ?, ?, ?)",
                (row.key, row.image_id, row.kernel_id, _encode(row)),
            )
        )

    async def use_template(self, key: str, now: float) -> None:
        """Say that the template, if it is there, was used at `now`; not durable."""
        await self._database.write(
            lambda connection: connection.execute(
                "UPDATE templates SET body = CAST(json_set(CAST(body AS TEXT), '$.used_at', ?)"
                " AS BLOB) WHERE key = ?",
                (now, key),
            ),
            durable=False,
        )

    async def delete_template(self, key: str) -> None:
        """Remove a template's row, if it is there."""
        await self._database.write(
            lambda connection: connection.execute("DELETE FROM templates WHERE key = ?", (key,))
        )

    async def template(self, key: str) -> TemplateRow | None:
        """The template with exactly this key."""
        rows = await self._select(_TEMPLATE, "SELECT body FROM templates WHERE key = ?", key)
        return rows[0] if rows else None

    async def templates(self) -> list[TemplateRow]:
        """All templates, the one used last first."""
        rows = await self._select(_TEMPLATE, "SELECT body FROM templates")
        return sorted(rows, key=lambda row: row.used_at, reverse=True)

    async def census(self) -> Census:
        """All that owns files, as it is at one moment."""

        def work(connection: sqlite3.Connection) -> Census:
            return Census(
                self._decoded(_VM, connection.execute("SELECT body FROM vms")),
                self._decoded(_SNAPSHOT, connection.execute("SELECT body FROM snapshots")),
                self._decoded(_TEMPLATE, connection.execute("SELECT body FROM templates")),
            )

        return await self._database.read(work)

    async def save_operation(self, operation: Operation) -> None:
        """Add or replace an operation; the oldest finished ones beyond 1,000 are forgotten.

        Not durable: no VM depends on it.
        """

        def work(connection: sqlite3.Connection) -> None:
            _put_operation(connection, operation)
            if operation.state is not OperationState.RUNNING:
                _prune_operations(connection)

        await self._database.write(work, durable=False)

    async def operation(self, operation_id: str) -> Operation | None:
        """The operation with exactly this id."""
        query = "SELECT body FROM operations WHERE id = ?"
        rows = await self._select(_OPERATION, query, operation_id)
        return rows[0] if rows else None

    async def operations(self, limit: int = 100) -> list[Operation]:
        """The latest `limit` operations, newest first."""
        query = "SELECT body FROM operations ORDER BY started_at DESC, id LIMIT ?"
        return await self._select(_OPERATION, query, limit)

    async def interrupt_operations(self, error: ErrorBody, now: float) -> int:
        """Make every operation still recorded as running a failed one; returns how many."""

        def work(connection: sqlite3.Connection) -> int:
            query = "SELECT body FROM operations WHERE state = 'running'"
            running = [_OPERATION.decode(body) for (body,) in connection.execute(query)]
            for operation in running:
                own = msgspec.structs.replace(error, operation=operation.id)
                _put_operation(connection, ended(operation, OperationState.FAILED, now, own))

            return len(running)

        return await self._database.write(work)

    async def _select(
        self, decoder: msgspec.json.Decoder[T], query: str, *values: object
    ) -> list[T]:
        return await self._database.read(
            lambda connection: self._decoded(decoder, connection.execute(query, values))
        )

    def _decoded(self, decoder: msgspec.json.Decoder[T], bodies: Iterable[tuple[bytes]]) -> list[T]:
        try:
            return [decoder.decode(body) for (body,) in bodies]
        except msgspec.DecodeError as error:
            raise corrupt(self._path, f"a row does not read: {error}") from error

    async def _column(self, query: str, *values: object) -> set[str]:
        return await self._database.read(
            lambda connection: {value for (value,) in connection.execute(query, values)}
        )


@contextmanager
def _name_taken(name: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
            raise

        raise CallerError(
            ErrorCode.NAME_TAKEN,
            f"there is already a VM named {name!r}",
            hint=f"choose another name, or remove it: banger vm delete {name}",
        ) from error


def _columns(row: VMRow) -> tuple[str, str, str, str, str, bytes]:
    return row.id, row.name, row.state, row.image_id, row.kernel_id, _encode(row)


def _insert_leases(connection: sqlite3.Connection, vm_id: str, leases: Sequence[Lease]) -> None:
    for lease in leases:
        try:
            connection.execute(
                "INSERT INTO leases VALUES (?, ?, ?)", (lease.kind, lease.value, vm_id)
            )
        except sqlite3.IntegrityError as error:
            raise LeaseTaken(lease) from error


def _put_operation(connection: sqlite3.Connection, operation: Operation) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO operations VALUES (?, ?, ?, ?)",
        (operation.id, operation.state, operation.started_at, _encode(operation)),
    )


def _prune_operations(connection: sqlite3.Connection) -> None:
    connection.execute(
        "DELETE FROM operations WHERE state != 'running' AND started_at <="
        " (SELECT started_at FROM operations ORDER BY started_at DESC LIMIT 1 OFFSET ?)",
        (OPERATIONS_KEPT,),
    )


def _unknown(ref: str) -> CallerError:
    return CallerError(
        ErrorCode.UNKNOWN_VM, f"there is no VM {ref!r}", hint="see what there is: banger vm list"
    )


def _snapshot_exists(name: str) -> CallerError:
    return CallerError(
        ErrorCode.NAME_TAKEN,
        f"there is already a snapshot named {name!r} of this VM",
        hint="choose another name, or remove it: banger vm snapshot delete VM SNAPSHOT",
    )


def _ambiguous(ref: str, rows: Sequence[VMRow]) -> CallerError:
    meant = ", ".join(f"{row.id} ({row.name})" for row in rows)
    return CallerError(
        ErrorCode.AMBIGUOUS_VM,
        f"{ref!r} is the beginning of several VM ids: {meant}",
        hint="type more of the id, or the name",
    )
