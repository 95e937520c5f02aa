"""What stays behind when VMs come and go: files, processes, rows, and memory of the daemon."""

from __future__ import annotations

import psutil
from tests.e2e.harness import Banger

from bench.measure import Bar, Report, Series
from bench.scene import warm

# 200 with the default number of rounds.
CYCLES_PER_RUN = 40
WARM_UP_SHARE = 10
GROWTH_LIMIT = 1.05
MIB = 1 << 20


def cycles(runs: int) -> Report:
    """Create a VM, run a command in it, delete it; over and over."""
    count = runs * CYCLES_PER_RUN
    memory: list[float] = []
    handles: list[float] = []
    with warm() as banger:
        kept = _disk_files(banger)
        daemon = psutil.Process(banger.daemon_pid())
        for number in range(count):
            vm = banger.ok("vm", "create", "-q")
            banger.ok("vm", "exec", vm, "--", "true")
            banger.ok("vm", "delete", "-q", vm)
            if number >= count // WARM_UP_SHARE:
                memory.append(daemon.memory_info().rss / MIB)
                handles.append(daemon.num_fds())

        left = banger.leftovers()
        extra = _disk_files(banger) - kept
        unused = banger.json("gc")["removed"]

    tenth = max(1, len(memory) // 10)
    early, late = sum(memory[:tenth]) / tenth, sum(memory[-tenth:]) / tenth
    return Report(
        f"{count} times create, exec, delete",
        (
            Series("memory of the daemon (RSS)", "MiB", tuple(memory)),
            Series("files the daemon has open", "", tuple(handles)),
        ),
        (
            Bar("things left behind", len(left) + len(extra), 0),
            Bar("things gc had to remove", len(unused), 0),
            Bar("RSS in the last tenth / in the first", late / early, GROWTH_LIMIT),
            Bar("more files open than before", handles[-1] - handles[0], 0),
        ),
        tuple([*left, *sorted(extra), *unused][:10]),
    )


def _disk_files(banger: Banger) -> set[str]:
    return {str(path) for path in (banger.state_dir / "disks").glob("*")}
