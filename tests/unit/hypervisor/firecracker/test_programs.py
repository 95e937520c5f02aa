"""Finding the programs: not for every question, and never those that are no more."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, cast

import pytest

from banger.api.errors import BangerError, CallerError, ErrorCode
from banger.hypervisor.firecracker.driver import Firecracker
from banger.privileged import ops

R = TypeVar("R")


class Root:
    """Finds the programs in a directory, and counts how often it is asked to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked = 0

    async def call(self, request: ops.Request[R]) -> R:
        assert isinstance(request, ops.ResolveBinaries)
        self.asked += 1
        program = self.directory / "firecracker"
        if not program.exists():
            raise CallerError(ErrorCode.HELPER_REFUSED, f"there is no {program}")

        jailer = str(self.directory / "jailer")
        return cast("R", ops.Binaries(firecracker=str(program), jailer=jailer))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    install(tmp_path, "1.12.1")
    return Root(tmp_path)


def install(directory: Path, version: str) -> None:
    for name in ("firecracker", "jailer"):
        new = directory / "new"
        new.write_text(f"#!/bin/sh\necho '{name.capitalize()} v{version}'\n")
        new.chmod(0o755)
        new.rename(directory / name)


async def test_the_helper_is_asked_once_for_one_start(root: Root) -> None:
    driver = Firecracker(root)

    assert [await driver.installed() for _ in range(3)] == ["1.12.1"] * 3
    assert root.asked == 1


async def test_another_program_is_another_version(root: Root) -> None:
    driver = Firecracker(root)
    await driver.installed()

    install(root.directory, "1.13.0")

    assert await driver.installed() == "1.13.0"


async def test_a_program_that_is_gone_is_missed_at_once(root: Root) -> None:
    driver = Firecracker(root)
    await driver.installed()

    (root.directory / "firecracker").unlink()

    with pytest.raises(BangerError) as missed:
        await driver.installed()

    assert missed.value.code is ErrorCode.HYPERVISOR_MISSING
