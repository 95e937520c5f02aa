"""What SQLite's failures mean to banger's users."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from banger.api.errors import BangerError, ErrorCode, PermanentError, TransientError

# Primary result codes: the low byte of https://www.sqlite.org/rescode.html
_PRIMARY = 0xFF


def primary_code(error: sqlite3.Error) -> int:
    """The primary SQLite result code of `error`; 0 when the error is the Python module's own."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY


def corrupt(path: Path, why: str) -> PermanentError:
    """The error for a database that cannot be trusted; it is left as it is."""
    return PermanentError(
        ErrorCode.STATE_CORRUPT,
        f"the database {path} cannot be used: {why}",
        hint=f"restore a copy, or move it away (mv {path} {path}.broken) and start afresh",
    )


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of sqlite3 and the system about the file `path` into BangerErrors."""
    try:
        yield
    except OSError as error:
        raise (
            _no_room(path, error) if error.errno == errno.ENOSPC else _unopenable(path, error)
        ) from error
    except sqlite3.Error as error:
        raise _meaning(path, error) from error


def _meaning(path: Path, error: sqlite3.Error) -> BangerError:
    match primary_code(error):
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return corrupt(path, str(error))
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return _no_room(path, error)
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return _unopenable(path, error)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return TransientError(
                ErrorCode.STATE_CORRUPT,
                f"the database {path} is locked by another process",
                hint=f"see who has it open: fuser -v {path}",
            )

    return PermanentError(ErrorCode.INTERNAL, f"the database {path} failed: {error}")


def _no_room(path: Path, error: Exception) -> PermanentError:
    return PermanentError(
        ErrorCode.INSUFFICIENT_DISK,
        f"the database {path} cannot be written: {error}",
        hint=f"free some space: df -h {path.parent}",
    )


def _unopenable(path: Path, error: Exception) -> PermanentError:
    return PermanentError(
        ErrorCode.STATE_CORRUPT,
        f"the database {path} cannot be opened: {error}",
        hint=f"check its owner and mode: ls -la {path.parent}",
    )
