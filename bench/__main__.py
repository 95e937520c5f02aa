"""`./bench/run`: choose benchmarks, run them, print medians, ratios and the bars they meet."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable

from bench.footprint import daemon_at_rest
from bench.images import image_build
from bench.latency import command_latency
from bench.measure import Report, load
from bench.start import cold_start

BENCHMARKS: dict[str, Callable[[int], Report]] = {
    "latency": command_latency,
    "rest": daemon_at_rest,
    "start": cold_start,
    "build": image_build,
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
