"""One SQLite connection on one thread: what every statement of the store runs through."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from banger.daemon.store import migrate
from banger.daemon.store.failures import corrupt, primary_code, translated
from banger.daemon.store.reserve import Reserve

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

# Twice what the log holds when SQLite checkpoints it by itself: see wal_autocheckpoint.
ROOM = 2 * 64 * 4096

_PRAGMAS = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA foreign_keys = ON",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    # Small, so that the log stays within the reserve on a full disk.
    "PRAGMA wal_autocheckpoint = 64",
    "PRAGMA cache_size = -1024",
)


class Database:
    """Runs functions against the connection, in the order they were asked for.

    Work that was asked for is done even if the asker is cancelled meanwhile, so that what a
    rollback does afterwards comes after it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._reserve = Reserve(path.with_name(path.name + ".reserve"))
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Connect, check and migrate. Raises PermanentError(state_corrupt, insufficient_disk)."""
        try:
            await self._submit(self._open)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what was asked for and let go of the file; may be called twice."""
        await self._submit(self._finish)
        self._thread.shutdown()

    async def read(self, work: Work[T]) -> T:
        """Run `work`, which only looks."""
        return await self._submit(lambda: self._run(work))

    async def write(self, work: Work[T], *, durable: bool = True) -> T:
        """Run `work` in one transaction, which is undone if it raises.

        Afterwards the result survives a crash of this process; of the whole machine, if `durable`.
        """
        return await self._submit(lambda: self._write(work, durable=durable))

    async def _submit(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        return await asyncio.shield(loop.run_in_executor(self._thread, work))

    def _open(self) -> None:
        with translated(self._path):
            self._with_reserve(self._connect)

        self._reserve.fill()

    def _connect(self) -> None:
        self._close()
        # Made here and not by SQLite, which would use 0644; its -wal and -shm copy this mode.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(self._path, flags, 0o600))
        migrate.check_header(self._path)
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._check(self._connection)
        for pragma in _PRAGMAS:
            self._connection.execute(pragma)

        migrate.migrate(self._connection, self._path, migrate.known())
        _make_room(self._connection)

    def _check(self, connection: sqlite3.Connection) -> None:
        finding = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if finding != "ok":
            raise corrupt(self._path, finding)

    def _finish(self) -> None:
        self._close()
        # The log's space is free now: the next daemon may need as much to open at all.
        self._reserve.fill(margin=0)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, work: Work[T]) -> T:
        assert self._connection is not None, "the store is closed"
        with translated(self._path):
            return work(self._connection)

    def _write(self, work: Work[T], *, durable: bool) -> T:
        def attempt() -> T:
            assert self._connection is not None, "the store is closed"
            with _transaction(self._connection, durable=durable):
                return work(self._connection)

        with translated(self._path):
            result = self._with_reserve(attempt)

        self._reserve.fill()
        return result

    def _with_reserve(self, attempt: Callable[[], T]) -> T:
        try:
            return attempt()
        except sqlite3.Error as error:
            full = primary_code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
            if not full or not self._reserve.release():
                raise

        return attempt()


def _make_room(connection: sqlite3.Connection) -> None:
    """Stretch the log and the file beyond what is in them, while there is space to do so.

    The log is written again from its beginning after each checkpoint, and rows go to free pages
    first. So what follows needs no block that something else on a full disk, such as a guest that
    goes on writing, could have taken.
    """
    try:
        connection.execute("DROP TABLE IF EXISTS room")
        connection.execute("CREATE TABLE room (filler BLOB)")
        connection.execute("INSERT INTO room VALUES (zeroblob(?))", (ROOM,))
        connection.execute("DROP TABLE room")
    except sqlite3.OperationalError as error:
        if primary_code(error) not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise


@contextmanager
def _transaction(connection: sqlite3.Connection, *, durable: bool) -> Iterator[None]:
    # In WAL mode NORMAL leaves out the fsync at commit and nothing else.
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has already rolled back by itself after some errors, a full disk among them.
        if connection.in_transaction:
            connection.execute("ROLLBACK")

        raise
