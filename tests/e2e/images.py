"""Real images, built once with the real command and kept between runs."""

from __future__ import annotations

import fcntl
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
    cache.parent.mkdir(parents=True, exist_ok=True)
    with (cache.parent / "lock").open("w") as lock:
        # Workers that run side by side need one image, not one each.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return cache if cache.is_dir() else _build(cache)


def _build(cache: Path) -> Path:
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

    return staging.rename(cache)


def _cache() -> Path:
    digest = hashlib.sha256()
    for source in sorted((REPOSITORY / "src/banger/image").rglob("*")):
        if source.suffix in (".py", ".toml", ".sh"):
            digest.update(source.read_bytes())

    root = Path(os.environ.get("BANGER_TEST_CACHE") or REPOSITORY / ".banger" / "e2e")
    return root / digest.hexdigest()[:16]
