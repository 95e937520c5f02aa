"""`./bench/run`: choose benchmarks, run them, print medians, ratios and the bars they meet."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable

from bench.density import density
from bench.execution import command_in_vm
from bench.footprint import daemon_at_rest
from bench.fork import fork_running
from bench.images import image_build
from bench.installed import installed_cold, installed_template, installed_warm
from bench.latency import command_latency
from bench.leaks import cycles
from bench.measure import Report, load
from bench.start import cold_start
from bench.warm import warm_run

BENCHMARKS: dict[str, Callable[[int], Report]] = {
    "latency": command_latency,
    "rest": daemon_at_rest,
    "start": cold_start,
    "warm_run": warm_run,
    "exec": command_in_vm,
    "fork": fork_running,
    "density": density,
    "leaks": cycles,
    "build": image_build,
    "installed_cold": installed_cold,
    "installed_warm": installed_warm,
    "installed_template": installed_template,
}


def main() -> int:
    options = _parse()
    reports: list[Report] = []
    for name in options.only or BENCHMARKS:
        print(f"measuring {name} ...", file=sys.stderr)
        report = BENCHMARKS[name](options.runs)
        reports.append(report)
        if not options.json:
            print(report, flush=True)

    if options.json:
        print(json.dumps({"machine": _machine(), "reports": [r.data() for r in reports]}, indent=2))

    missed = [bar for report in reports for bar in report.bars if not bar.held]
    return 1 if options.check and missed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/run", description="Measure banger beside its alternatives, in one run."
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--runs", type=int, default=5, help="rounds of each (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="repeatable")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    return parser.parse_args()


def _machine() -> dict[str, object]:
    return {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": load(),
    }


if __name__ == "__main__":
    sys.exit(main())
