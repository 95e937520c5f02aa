"""Shared by all tests: markers, and Hypothesis without deadlines (no test judges by the clock)."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("banger", deadline=None, print_blob=True)
settings.register_profile("long", settings.get_profile("banger"), max_examples=2000)
settings.load_profile("banger")

E2E = Path(__file__).parent / "e2e"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sweeps", action="store_true", help="play sweeps at each of their places")


def pytest_configure(config: pytest.Config) -> None:
    # A run under nohup(1) would hand its deafness on to every program that is tested.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.addinivalue_line("markers", "e2e: boots real VMs through the public surface")
    config.addinivalue_line("markers", "slow: takes more than half a minute")
    config.addinivalue_line("markers", "sweep: one failure at each place where it may happen")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("sweeps"):
        _keep_ends_of_sweeps(config, items)

    for item in items:
        if E2E in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            # The first test may have to build the image; software emulation is slow when shared.
            item.add_marker(pytest.mark.timeout(900))


def _keep_ends_of_sweeps(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of each sweep its first and its last place; what is between takes many minutes."""
    between: set[pytest.Item] = set()
    for _, group in itertools.groupby(items, key=lambda item: getattr(item, "function", None)):
        places = [item for item in group if item.get_closest_marker("sweep")]
        between.update(places[1:-1])

    if between:
        config.hook.pytest_deselected(items=[item for item in items if item in between])
        items[:] = [item for item in items if item not in between]
