"""Bring a database to this version's schema, one numbered SQL file and one transaction a step."""

from __future__ import annotations

import re
import sqlite3
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError
from banger.daemon.store.failures import corrupt, translated

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_DIRECTORY = Path(__file__).with_name("migrations")
# https://www.sqlite.org/fileformat.html#the_database_header
_MAGIC = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. Never edited once released: a change is a new one."""

    id: int
    name: str
    sql: str


class Verdict(Enum):
    """What opening a database with this version would do; the value is an exit status."""

    UP_TO_DATE = 0
    NEEDED = 1
    INCOMPATIBLE = 2


@dataclass(frozen=True, slots=True)
class Inspection:
    """The verdict on one database and a line that explains it."""

    verdict: Verdict
    summary: str


def known(directory: Path = _DIRECTORY) -> tuple[Migration, ...]:
    """All steps this version knows, in the order they apply."""
    found = [(match, path) for path in directory.iterdir() if (match := _FILE.match(path.name))]
    steps = (Migration(int(match[1]), match[2], path.read_text()) for match, path in found)
    return tuple(sorted(steps, key=lambda step: step.id))


def migrate(database: sqlite3.Connection, path: Path, steps: tuple[Migration, ...]) -> None:
    """Apply what `database` (in autocommit mode, file `path`) still lacks of `steps`.

    Raises PermanentError(state_corrupt) when it was written by a newer version, or is not ours.
    """
    for step in _missing(database, path, steps):
        _apply(database, step)


def check_header(path: Path) -> None:
    """Raise PermanentError(state_corrupt) unless `path` is empty or begins as a database does.

    SQLite itself takes any file that is too short to be a database for an empty one.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) not in (b"", _MAGIC):
            raise corrupt(path, "it is not a database")


def inspect(path: Path, steps: tuple[Migration, ...] | None = None) -> Inspection:
    """Say what opening `path` would do, without changing it or anything beside it."""
    steps = known() if steps is None else steps
    if not path.exists() or path.stat().st_size == 0:
        return Inspection(Verdict.NEEDED, f"no database yet: {path} will be created")

    try:
        with translated(path):
            check_header(path)
            missing = _inspect_file(path, steps)
    except PermanentError as error:
        return Inspection(Verdict.INCOMPATIBLE, error.message)

    if missing:
        names = ", ".join(f"{step.id:04}_{step.name}" for step in missing)
        return Inspection(Verdict.NEEDED, f"migrations needed: {names}")

    return Inspection(Verdict.UP_TO_DATE, f"up to date at {steps[-1].id:04}_{steps[-1].name}")


def _inspect_file(path: Path, steps: tuple[Migration, ...]) -> list[Migration]:
    # Without a write-ahead log nobody has it open; then "immutable" keeps SQLite from making one.
    log = path.with_name(path.name + "-wal")
    mode = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    database = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
    try:
        return _missing(database, path, steps)
    finally:
        database.close()


def _missing(
    database: sqlite3.Connection, path: Path, steps: tuple[Migration, ...]
) -> list[Migration]:
    applied = _applied(database, path)
    newer = applied - {step.id for step in steps}
    if newer:
        raise PermanentError(
            ErrorCode.STATE_CORRUPT,
            f"{path} was written by a newer banger (schema {max(newer)}, "
            f"this one knows up to {steps[-1].id})",
            hint="install that version again",
        )

    return [step for step in steps if step.id not in applied]


def _applied(database: sqlite3.Connection, path: Path) -> set[int]:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema")}
    if not tables:
        return set()

    if "schema_migrations" not in tables:
        raise corrupt(path, "it is a database, but not banger's")

    return {number for (number,) in database.execute("SELECT id FROM schema_migrations")}


def _apply(database: sqlite3.Connection, step: Migration) -> None:
    # executescript() ends any open transaction first, so the script carries its own.
    record = f"INSERT INTO schema_migrations VALUES ({step.id}, '{step.name}', {time.time()});"  # noqa: S608
    try:
        database.executescript(f"BEGIN IMMEDIATE;\n{step.sql}\n{record}\nCOMMIT;")
    except sqlite3.Error:
        if database.in_transaction:
            database.execute("ROLLBACK")

        raise
