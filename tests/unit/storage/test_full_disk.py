"""Nothing is half done and nothing is lost on a full disk; deleting works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("full_disk.py")
NAMESPACE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Ur", "--mount"]

SCENARIOS = [
    "copying",
    "writing_over",
    "creating_a_work_disk",
    "resizing_a_new_work_disk",
    "growing_a_work_disk",
    "growing_a_work_disk_of_layers",
    "creating_a_root_disk",
    "making_an_overlay",
    "copying_an_overlay",
    "flattening",
    "sweeping",
    "removing_a_tree",
]


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0:
        pytest.skip("this user may not make mount namespaces")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_full_disk(scenario: str, tmp_path: Path) -> None:
    argv = [*NAMESPACE, sys.executable, str(SCRIPT), scenario, str(tmp_path)]
    result = subprocess.run(argv, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
