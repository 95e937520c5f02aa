"""What one command in a running VM costs from the shell: `banger vm exec VM -- true`."""

from __future__ import annotations

import subprocess
import sys

from tests.e2e.harness import PROGRAM

from bench.measure import Bar, Measurement, Report, alternate, stopwatch
from bench.scene import calls_into, run_true, warm

COMMAND_LIMIT = 3.0


def command_in_vm(runs: int) -> Report:
    """The whole command, less the request to the agent alone, against a bare `import click`."""
    with warm() as banger:
        vm = banger.ok("vm", "create", "-q")
        calls = calls_into(banger, vm)

        def floor() -> float:
            with stopwatch() as elapsed:
                run_true(calls)
                return elapsed()

        found = alternate(
            runs * 5,
            "s",
            {
                "python3 -c 'import click'": _command([sys.executable, "-c", "import click"]),
                "the agent runs true": floor,
                "banger vm exec VM -- true": _command(
                    [str(PROGRAM), "vm", "exec", vm, "--", "true"], banger.env
                ),
            },
        )

    bare, raw, whole = found.values()
    return Report(
        "A command in a running VM",
        tuple(found.values()),
        (
            Bar(
                "(exec - agent) / import click",
                (whole.median - raw.median) / bare.median,
                COMMAND_LIMIT,
            ),
        ),
    )


def _command(argv: list[str], env: dict[str, str] | None = None) -> Measurement:
    def measure() -> float:
        with stopwatch() as elapsed:
            subprocess.run(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
            )
            return elapsed()

    return measure
