"""An owner who is whoever runs the tests, and a scratch host to install on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from banger.install.owner import Owner
from banger.install.tree import Tree


@pytest.fixture
def owner() -> Owner:
    return Owner("daemon", os.geteuid(), os.getegid(), Path("/nonexistent"))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "host", contextlib.ExitStack())
