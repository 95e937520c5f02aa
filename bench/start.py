"""From nothing to a command that has run over ssh in a new VM, cold."""

from __future__ import annotations

from contextlib import ExitStack

from tests.e2e.harness import Banger, adopt_images, short_directory

from bench.debvm import create, make_key, start_to_ssh
from bench.images import DEFAULT_RELEASE, built_images, default_packages
from bench.measure import Bar, Report, alternate, stopwatch

START_LIMIT = 0.5


def cold_start(runs: int) -> Report:
    """`banger vm run --cold --rm -- true` against `debvm-run` and ssh, both emulated."""
    with ExitStack() as stack:
        home = stack.enter_context(short_directory())
        adopt_images(built_images(), home / "state")
        banger = Banger(home)
        stack.callback(banger.close)
        yard = stack.enter_context(short_directory())
        key, image = make_key(yard), yard / "rootfs.ext4"
        create(image, key, DEFAULT_RELEASE, default_packages(banger))

        def ours() -> float:
            with stopwatch() as elapsed:
                banger.ok("vm", "run", "--cold", "--rm", "--", "true")
                return elapsed()

        found = alternate(
            runs,
            "s",
            {
                "banger vm run --cold --rm -- true": ours,
                "debvm-run": lambda: start_to_ssh(image, key),
            },
        )

    mine, theirs = found.values()
    return Report(
        "Cold start to ssh (software emulation)",
        tuple(found.values()),
        (Bar("banger / debvm-run", mine.median / theirs.median, START_LIMIT),),
        (
            "banger's time includes making the disks and deleting the VM; debvm's does not",
            "debvm's image is made beforehand, and is asked for ssh every 50 ms",
        ),
    )
