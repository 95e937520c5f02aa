"""What the daemon costs while nothing happens."""

from __future__ import annotations

import time

import psutil
from tests.e2e.harness import Banger, short_directory

from bench.measure import Bar, Report, Series

PSS_LIMIT_MIB = 60.0
CPU_LIMIT_SECONDS = 0.0
SETTLE_SECONDS = 3.0
WATCH_SECONDS = 10.0
MIB = 1 << 20


def daemon_at_rest(_runs: int) -> Report:
    """CPU seconds in ten seconds of rest, and proportional memory, after some requests."""
    with short_directory() as home:
        banger = Banger(home)
        try:
            for _ in range(20):
                banger.ok("vm", "list")

            daemon = psutil.Process(banger.daemon_pid())
            time.sleep(SETTLE_SECONDS)
            before = sum(daemon.cpu_times()[:2])
            time.sleep(WATCH_SECONDS)
            used = sum(daemon.cpu_times()[:2]) - before
            pss = daemon.memory_full_info().pss / MIB
        finally:
            banger.run("daemon", "stop")

    return Report(
        "Daemon at rest",
        (
            Series(f"CPU in {WATCH_SECONDS:.0f} s", "s", (used,)),
            Series("memory (PSS)", "MiB", (pss,)),
        ),
        (
            Bar("CPU seconds used at rest", used, CPU_LIMIT_SECONDS),
            Bar("PSS in MiB", pss, PSS_LIMIT_MIB),
        ),
    )
