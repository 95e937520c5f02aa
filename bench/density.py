"""How many VMs of a template fit: memory and time for each as their number grows."""

from __future__ import annotations

import time
from pathlib import Path

from tests.e2e.harness import Banger

from bench.measure import Bar, Report, Series, stopwatch
from bench.scene import calls_into, run_true, warm

COUNTS = (1, 8, 32, 64)
MEMORY = "512M"
PSS_LIMIT_MIB = 80.0
# What the last VMs may cost beside the first ones.
GROWTH_LIMIT = 1.5
# Of each round so many are timed, for a VM has work left for some seconds after it was made.
TIMED = 8
SETTLE_SECONDS = 5.0


def density(_runs: int) -> Report:
    """PSS of each VM and VMs made a second with 1, 8, 32 and 64 of them alive; all answer."""
    series: list[Series] = []
    rates: list[float] = []
    worst: list[float] = []
    with warm("--memory", MEMORY) as banger:
        vms: list[str] = []
        for count in COUNTS:
            timed = min(TIMED, count - len(vms))
            vms += _made(banger, count - len(vms) - timed)
            time.sleep(SETTLE_SECONDS)
            with stopwatch() as elapsed:
                vms += _made(banger, timed)
                rates.append(timed / elapsed())

            for vm in vms:
                run_true(calls_into(banger, vm))

            time.sleep(SETTLE_SECONDS)
            sizes = tuple(_pss_mib(pid) for pid in banger.vmms())
            assert len(sizes) == count
            series.append(Series(f"memory of each of {count} (PSS)", "MiB", sizes))
            worst.append(max(sizes))

    series += [
        Series(f"made a second, the last of {count}", "1/s", (rate,))
        for count, rate in zip(COUNTS, rates, strict=True)
    ]
    return Report(
        f"Many VMs of one template ({MEMORY})",
        tuple(series),
        (
            Bar(f"largest PSS of {COUNTS[-1]} in MiB", worst[-1], PSS_LIMIT_MIB),
            Bar(f"time for each of the last of {COUNTS[-1]} / of {COUNTS[1]}",
                rates[1] / rates[-1], GROWTH_LIMIT),
            Bar(f"median PSS of {COUNTS[-1]} / of {COUNTS[1]}",
                series[3].median / series[1].median, GROWTH_LIMIT),
        ),
        ("every VM has run a command in each round", "created one after another, by the command"),
    )  # fmt: skip


def _made(banger: Banger, count: int) -> list[str]:
    return [banger.ok("vm", "create", "-q", "--memory", MEMORY) for _ in range(count)]


def _pss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split()[:2] for line in text.splitlines()[1:])
    return int(fields["Pss:"]) / 1024
