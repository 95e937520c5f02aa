"""What banger costs beside Firecracker itself, on an installed host.

Both sides run in the smoke suite's host, in turns: its processors are emulated, and so slow, but
they are slow for both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smoke import layers
from smoke.host import Host

from bench.measure import Bar, Report, Series

COLD_LIMIT, WARM_LIMIT, TEMPLATE_LIMIT = 1.15, 2.0, 5.0
_INSIDE = "/usr/local/lib/banger-bench"
_CONFIG = "/etc/banger/config.toml"
# The smoke host makes no templates by itself.
_AS_INSTALLED = f"rm -f {_CONFIG}"
_NONE_STANDS_BY = f"printf '[limits]\\nstandby = false\\n' >{_CONFIG}"


def installed_cold(runs: int) -> Report:
    """A VM that boots, until its agent answers."""
    return _starts("cold", runs, COLD_LIMIT)


def installed_warm(runs: int) -> Report:
    """A VM of an image that has been used before, until its agent answers; one stands by."""
    return _starts("warm", runs, WARM_LIMIT)


def installed_template(runs: int) -> Report:
    """The same when none stands by, as for the second of two that are made at once."""
    return _starts("template", runs, TEMPLATE_LIMIT)


def _starts(kind: str, runs: int, limit: float) -> Report:
    found = _measured(kind, runs)
    series = [Series(name, "s", tuple(values)) for name, values in found["times"].items()]
    hand, asked, _ = series
    steps = [
        Series(f"  {side}: {name}", "s", tuple(values))
        for side, named in found["steps"].items()
        for name, values in named.items()
    ]
    return Report(
        f"A start on an installed host ({kind}), until the agent answers",
        (*series, *steps),
        (Bar("banger / Firecracker by hand", asked.median / hand.median, limit),),
        ("by hand: disks, tap, initrd and jail are ready before the clock starts",),
    )


def _measured(kind: str, runs: int) -> dict[str, Any]:
    host = Host("bench", base=layers.installed())
    try:
        host.remove()
        host.start()
        config = _AS_INSTALLED if kind == "warm" else _NONE_STANDS_BY
        host.sh(f"{config} && systemctl restart bangerd")
        host.sh(f"mkdir -p {_INSIDE}/bench")
        host.put(Path(__file__).parent / "inside", f"{_INSIDE}/bench/inside")
        python = "$(dirname $(readlink -f $(command -v bangerd)))/python"
        # Its first lines may be warnings of tools.
        said = host.sh(
            f"cd {_INSIDE} && {python} -m bench.inside.starts {kind} {runs}", timeout=7200
        )
        found: dict[str, Any] = json.loads(said.splitlines()[-1])
        return found
    finally:
        host.remove()
