"""Real images, built once with the real command and kept between runs."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from tests.e2e.harness import REPOSITORY, Banger, short_directory


def build_once() -> Path:
    """A directory with `images/` and `kernels/`, as `banger image build` makes them.

    `BANGER_TEST_CACHE` says where it is kept; another builder means another directory.
    """
    cache = _cache()
    if cache.is_dir():
        return cache

    staging = cache.with_suffix(f".{os.getpid()}")
    with short_directory() as home:
        banger = Banger(home)
        try:
            banger.ok("image", "build", timeout=840)
        finally:
            banger.run("daemon", "stop")

        staging.mkdir(parents=True)
        for kind in ("images", "kernels"):
            shutil.move(banger.state_dir / kind, staging / kind)

    try:
        staging.rename(cache)
    except OSError:
        # Another run was faster; its image is as good.
        shutil.rmtree(staging)

    return cache


def _cache() -> Path:
    digest = hashlib.sha256()
    for source in sorted((REPOSITORY / "src/banger/image").rglob("*")):
        if source.suffix in (".py", ".toml", ".sh"):
            digest.update(source.read_bytes())

    root = Path(os.environ.get("BANGER_TEST_CACHE") or REPOSITORY / ".banger" / "e2e")
    return root / digest.hexdigest()[:16]
