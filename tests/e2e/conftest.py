"""Fixtures: images built once, installations of their own, a VM for tests that only look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.e2e.harness import Banger, installation
from tests.e2e.images import build_once

Installer = Callable[..., Banger]


@pytest.fixture(scope="session")
def images() -> Path:
    """A directory with `images/` and `kernels/`, as `banger image build` makes them."""
    return build_once()


@pytest.fixture
def install(images: Path) -> Iterator[Installer]:
    """Make installations that are audited and removed when the test ends."""
    with ExitStack() as stack:

        def make(env: Mapping[str, str] | None = None, *, templates: bool = False) -> Banger:
            return stack.enter_context(installation(images, env, templates=templates))

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
