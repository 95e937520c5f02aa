"""The daemon's log: one line a record, whose operation is known, in a file that does not grow."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.daemon import log as log_module
from banger.daemon.log import current_operation, start_logging


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield root
    for handler in root.handlers:
        handler.close()

    root.handlers, root.level = handlers, level


def test_a_record_is_one_line_with_its_operation(root: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "bangerd.log"
    start_logging(path, "info")
    token = current_operation.set("op-0123456789")
    logging.getLogger("banger.x").info("two\nlines\r%s", "and more")
    current_operation.reset(token)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logging.getLogger("banger.y").exception("failed")

    logging.getLogger("banger.z").debug("not at this level")
    first, second = path.read_text().splitlines()
    assert first.endswith(r"INFO banger.x [op-0123456789] two\nlines\rand more")
    assert r"ERROR banger.y [-] failed\nTraceback" in second


def test_the_file_is_bounded(
    root: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "FILE_SIZE", 1000)
    start_logging(tmp_path / "bangerd.log", "debug")
    for _ in range(100):
        logging.getLogger("banger.x").debug("x" * 50)

    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"bangerd.log", "bangerd.log.1"}
    assert max(sizes.values()) <= 1000
