"""The daemon's log: one line a record, each with the operation it belongs to, in a bounded file."""

from __future__ import annotations

import logging
import os
import sys
from contextvars import ContextVar
from logging.handlers import RotatingFileHandler
from pathlib import Path

from banger.api.sizes import MIB

current_operation: ContextVar[str | None] = ContextVar("current_operation", default=None)
"""Id of the operation the present task works for; follows into tasks and threads it starts."""

FILE_SIZE = 4 * MIB
_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(operation)s] %(message)s"


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.operation = current_operation.get() or "-"
        # Guests and tools choose some of the text: it must not be able to forge a record.
        return super().format(record).replace("\r", "\\r").replace("\n", "\\n")


def start_logging(path: Path, level: str) -> None:
    """Log to `path`, which with its one predecessor (`path`.1) stays below 8 MiB.

    `level` is a name of the logging module's, in any case. A terminal on standard error gets a
    copy, for those who start `bangerd` by hand, and so does systemd's journal.
    """
    handlers: list[logging.Handler] = [
        RotatingFileHandler(path, maxBytes=FILE_SIZE, backupCount=1, encoding="utf-8")
    ]
    # systemd.exec(5): set where standard error is the journal.
    if sys.stderr.isatty() or "JOURNAL_STREAM" in os.environ:
        handlers.append(logging.StreamHandler())

    for handler in handlers:
        handler.setFormatter(_OneLine(_FORMAT))

    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)
    # At debug level these two describe themselves, not banger.
    logging.getLogger("asyncio").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
