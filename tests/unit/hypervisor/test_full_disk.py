"""A guest is what it was, and nothing is left over, when there is no room for its checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("full_disk.py")
NAMESPACE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Ur", "--mount"]

SCENARIOS = ["saving", "saving_a_paused_guest", "saving_for_good", "converting", "flattening"]


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0:
        pytest.skip("this user may not make mount namespaces")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_full_disk(scenario: str, home: Path) -> None:
    argv = [*NAMESPACE, sys.executable, str(SCRIPT), scenario, str(home)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(argv, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
