"""Opening databases of every age and condition: newer, older, damaged, somebody else's."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.daemon.rows import vm_row

from banger.api.errors import ErrorCode, PermanentError
from banger.daemon.store import Store, migrate
from banger.daemon.store.migrate import Migration, Verdict, inspect, known

NEXT = Migration(len(known()) + 1, "next", "CREATE TABLE next (id INTEGER PRIMARY KEY) STRICT;")


async def make_database(path: Path) -> None:
    store = await Store.open(path)
    await store.insert_vm(vm_row(1), [])
    await store.close()


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def contents(directory: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


def test_migrations_are_numbered_from_one_without_gaps() -> None:
    assert [step.id for step in known()] == list(range(1, len(known()) + 1))


async def test_a_new_database_is_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    assert inspect(path).verdict is Verdict.NEEDED
    await make_database(path)
    assert inspect(path).verdict is Verdict.UP_TO_DATE


async def test_inspecting_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await make_database(path)
    before = contents(tmp_path)
    inspect(path)
    assert contents(tmp_path) == before


async def test_a_database_in_use_can_be_inspected(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "state.db")
    assert inspect(tmp_path / "state.db").verdict is Verdict.UP_TO_DATE
    await store.close()


async def test_an_older_database_is_brought_up_to_date_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    await make_database(path)
    steps = (*known(), NEXT)
    found = inspect(path, steps)
    assert found.verdict is Verdict.NEEDED
    assert NEXT.name in found.summary
    monkeypatch.setattr(migrate, "known", lambda: steps)
    store = await Store.open(path)
    assert await store.vms() == [vm_row(1)]
    await store.close()
    assert inspect(path, steps).verdict is Verdict.UP_TO_DATE


async def test_a_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await make_database(path)
    broken = Migration(
        len(known()) + 1, "broken", "CREATE TABLE half (id INTEGER);\nCREATE TABLE vms (id);"
    )
    database = connect(path)
    with pytest.raises(sqlite3.OperationalError):
        migrate.migrate(database, path, (*known(), broken))

    names = {name for (name,) in database.execute("SELECT name FROM sqlite_schema")}
    database.close()
    assert "half" not in names
    assert inspect(path).verdict is Verdict.UP_TO_DATE


async def test_a_database_of_a_newer_version_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await make_database(path)
    database = connect(path)
    database.execute("INSERT INTO schema_migrations VALUES (9, 'future', 0)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(PermanentError) as caught:
        await Store.open(path)

    assert caught.value.code is ErrorCode.STATE_CORRUPT
    assert "newer banger (schema 9" in caught.value.message
    assert caught.value.hint is not None
    assert inspect(path).verdict is Verdict.INCOMPATIBLE
    assert path.read_bytes() == before


async def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    database = connect(path)
    database.execute("CREATE TABLE theirs (id)")
    database.close()
    with pytest.raises(PermanentError, match="not banger's"):
        await Store.open(path)

    assert inspect(path).verdict is Verdict.INCOMPATIBLE


@given(content=st.binary(min_size=1, max_size=2000))
async def test_what_is_not_a_database_is_refused_and_kept(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "state.db"
    path.write_bytes(content)
    with pytest.raises(PermanentError) as caught:
        await Store.open(path)

    assert caught.value.code is ErrorCode.STATE_CORRUPT
    assert path.read_bytes() == content
    assert inspect(path).verdict is Verdict.INCOMPATIBLE


async def test_a_damaged_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await make_database(path)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(8192))

    before = path.read_bytes()
    with pytest.raises(PermanentError) as caught:
        await Store.open(path)

    assert caught.value.code is ErrorCode.STATE_CORRUPT
    assert path.read_bytes() == before


async def test_a_truncated_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await make_database(path)
    os.truncate(path, 8192)
    with pytest.raises(PermanentError) as caught:
        await Store.open(path)

    assert caught.value.code is ErrorCode.STATE_CORRUPT


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "state.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(PermanentError):
        await Store.open(tmp_path / "state.db")

    assert not (tmp_path / "elsewhere.db").exists()
