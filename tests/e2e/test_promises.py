"""The figures of SPEC.md that are cheap to measure; `./bench/run --check` measures all of them."""

from __future__ import annotations

import json
import subprocess

import pytest
from tests.e2e.harness import REPOSITORY


@pytest.mark.slow
def test_commands_are_quick_and_the_daemon_rests() -> None:
    argv = ["bench/run", "--json", "--runs", "3", "--only", "latency", "--only", "rest"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    bars = [bar for report in json.loads(done.stdout)["reports"] for bar in report["bars"]]
    assert len(bars) == 4
    assert [bar for bar in bars if not bar["held"]] == []
