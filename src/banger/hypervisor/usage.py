"""What a VMM process uses, from proc_pid_stat(5) and proc_pid_smaps(5)."""

from __future__ import annotations

import os
import time
from pathlib import Path

from banger.host.process import ProcessRef, alive
from banger.hypervisor.base import VMMUsage

_TICK = os.sysconf("SC_CLK_TCK")


def read_usage(process: ProcessRef) -> VMMUsage | None:
    """What `process` uses now; None when it is gone.

    Blocks for about a millisecond for each 100 MiB in use: the kernel walks its page tables.
    """
    directory = Path("/proc") / str(process.pid)
    try:
        stat = (directory / "stat").read_bytes()
        rollup = (directory / "smaps_rollup").read_text()
    except OSError:
        return None
    if not alive(process):
        return None

    fields = stat[stat.rindex(b")") + 2 :].split()
    cpu = (int(fields[11]) + int(fields[12])) / _TICK
    uptime = max(time.clock_gettime(time.CLOCK_BOOTTIME) - process.start_time / _TICK, 1 / _TICK)
    sizes = _kilobytes(rollup)
    return VMMUsage(
        cpu_seconds=cpu,
        cpu_percent=100 * cpu / uptime,
        rss_bytes=sizes.get("Rss", 0) * 1024,
        pss_bytes=sizes.get("Pss", 0) * 1024,
        uptime_seconds=uptime,
    )


def _kilobytes(rollup: str) -> dict[str, int]:
    lines = (line.split() for line in rollup.splitlines() if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) for words in lines}
