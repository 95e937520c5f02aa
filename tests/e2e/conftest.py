"""Fixtures: images built once, installations of their own, a VM for tests that only look."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.harness import REPOSITORY, Banger, installation, short_directory

Installer = Callable[..., Banger]


def _cache() -> Path:
    """Where built images are kept between runs; another builder means another place."""
    digest = hashlib.sha256()
    for source in sorted((REPOSITORY / "src/banger/image").rglob("*")):
        if source.suffix in (".py", ".toml"):
            digest.update(source.read_bytes())

    root = Path(os.environ.get("BANGER_TEST_CACHE") or REPOSITORY / ".banger" / "e2e")
    return root / digest.hexdigest()[:16]


@pytest.fixture(scope="session")
def images() -> Path:
    """A directory with `images/` and `kernels/`, as `banger image build` makes them."""
    cache = _cache()
    if cache.is_dir():
        return cache

    with short_directory() as home:
        banger = Banger(home)
        try:
            banger.ok("image", "build", timeout=840)
        finally:
            banger.run("daemon", "stop")

        staging = cache.with_suffix(".new")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for kind in ("images", "kernels"):
            shutil.move(banger.state_dir / kind, staging / kind)

        staging.rename(cache)

    return cache


@pytest.fixture
def install(images: Path) -> Iterator[Installer]:
    """Make installations that are audited and removed when the test ends."""
    with ExitStack() as stack:

        def make(env: Mapping[str, str] | None = None) -> Banger:
            return stack.enter_context(installation(images, env))

        yield make


@pytest.fixture
def banger(install: Installer) -> Banger:
    """An empty installation of this test's own."""
    return install()


@pytest.fixture(scope="session")
def shared(images: Path) -> Iterator[Banger]:
    """One installation with one running VM, `box`, for tests that change neither."""
    with installation(images) as banger:
        banger.ok("vm", "create", "--name", "box")
        yield banger
