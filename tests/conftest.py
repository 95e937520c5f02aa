"""Shared by all tests: markers, and Hypothesis without deadlines (no test judges by the clock)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("banger", deadline=None, print_blob=True)
settings.load_profile("banger")

E2E = Path(__file__).parent / "e2e"


def pytest_configure(config: pytest.Config) -> None:
    # A run under nohup(1) would hand its deafness on to every program that is tested.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.addinivalue_line("markers", "e2e: boots real VMs through the public surface")
    config.addinivalue_line("markers", "slow: takes more than half a minute")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if E2E in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            # The first test may have to build the image; software emulation is slow when shared.
            item.add_marker(pytest.mark.timeout(900))
