"""From nothing to a command that has run in a new VM, when there is a template of it."""

from __future__ import annotations

import time
from contextlib import ExitStack

from tests.e2e.harness import Banger, short_directory

from bench.debvm import create, make_key, start_to_ssh
from bench.images import DEFAULT_RELEASE, default_packages
from bench.measure import Bar, Report, alternate, stopwatch
from bench.raw import raw_guest
from bench.scene import warm

RAW_LIMIT = 2.0
DEBVM_LIMIT = 1 / 25
# For the next VM to stand by before anything else is measured.
REST_SECONDS = 4.0


def warm_run(runs: int) -> Report:
    """`banger vm run --rm -- true` against the restore under it, and against debvm's boot."""
    with ExitStack() as stack:
        banger, guest = stack.enter_context(raw_guest())
        usual = stack.enter_context(warm(standby=True))
        yard = stack.enter_context(short_directory())
        key, image = make_key(yard), yard / "rootfs.ext4"
        create(image, key, DEFAULT_RELEASE, default_packages(banger))

        def ours(installation: Banger) -> float:
            with stopwatch() as elapsed:
                installation.ok("vm", "run", "--rm", "--", "true")
                took = elapsed()

            time.sleep(REST_SECONDS)
            return took

        found = alternate(
            runs,
            "s",
            {
                "restore by hand": guest.restore,
                "banger vm run --rm -- true": lambda: ours(usual),
                "the same, while no VM stands by": lambda: ours(banger),
                "debvm-run": lambda: start_to_ssh(image, key),
            },
        )

    floor, mine, unprepared, theirs = found.values()
    return Report(
        "Warm start to a command's exit status",
        tuple(found.values()),
        (
            Bar("banger / restore by hand", mine.median / floor.median, RAW_LIMIT),
            Bar("none standing by / by hand", unprepared.median / floor.median, RAW_LIMIT),
            Bar("banger / debvm-run", mine.median / theirs.median, DEBVM_LIMIT),
        ),
        (
            "banger's time is the whole command's, deleting the VM included",
            "by hand is copying overlays, QEMU, QMP, and the agent running true",
        ),
    )
