"""Building the default image, beside `debvm-create` with the same packages and kernel."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.harness import Banger, short_directory
from tests.e2e.images import build_once

from bench.debvm import create, make_key
from bench.measure import Bar, Report, alternate, stopwatch

DEFAULT_RELEASE = "bookworm"
BUILD_LIMIT = 1.0
# A build takes half a minute on each side: fewer rounds than what takes seconds.
ROUNDS_SHARE = 2


def image_build(runs: int) -> Report:
    """`banger image build --force` against `debvm-create`."""
    with ExitStack() as stack:
        banger = Banger(stack.enter_context(short_directory()))
        stack.callback(banger.close)
        yard = stack.enter_context(short_directory())
        key = make_key(yard)
        with stopwatch() as elapsed:
            banger.ok("image", "build", timeout=900)
            first = elapsed()

        packages = default_packages(banger)

        def ours() -> float:
            with stopwatch() as elapsed:
                banger.ok("image", "build", "--force", timeout=900)
                return elapsed()

        def theirs() -> float:
            with stopwatch() as elapsed:
                create(yard / "rootfs.ext4", key, DEFAULT_RELEASE, packages)
                return elapsed()

        found = alternate(
            max(1, runs // ROUNDS_SHARE),
            "s",
            {"banger image build": ours, "debvm-create": theirs},
            warm=False,
        )

    mine, other = found.values()
    return Report(
        "Image build",
        tuple(found.values()),
        (Bar("banger / debvm-create", mine.median / other.median, BUILD_LIMIT),),
        (f"the very first build took {first:.1f} s", "banger's also unpacks the kernel"),
    )


def built_images() -> Path:
    """The default image, from the tests' cache or built into it."""
    return build_once()


def default_packages(banger: Banger) -> Sequence[str]:
    """What the default image was built with."""
    (image,) = banger.json("image", "list")
    packages: Sequence[str] = image["packages"]
    return packages
