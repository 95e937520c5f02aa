"""What lives on when a daemon of the fake world ends."""

from __future__ import annotations

import pytest
from tests.unit.daemon.vms.installed import Root
from tests.unit.daemon.vms.world import Processes


@pytest.fixture
def processes() -> Processes:
    """The VMMs, and what is in them."""
    return Processes()


@pytest.fixture
def root(processes: Processes) -> Root:
    """The root helper of an installed host, and what it has made."""
    return Root(processes)
