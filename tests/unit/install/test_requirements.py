"""What an installation needs and does not bring."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, cast

import pytest

from banger.api.errors import BangerError, CallerError, ErrorCode
from banger.install.requirements import require_firecracker
from banger.privileged import ops

R = TypeVar("R")


class Root:
    """Finds a `firecracker` in a directory that is called root's here, as the root helper does."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def call(self, request: ops.Request[R]) -> R:
        assert isinstance(request, ops.ResolveBinaries)
        program = Path(request.firecracker or self._directory / "firecracker")
        if not program.exists():
            raise CallerError(ErrorCode.HELPER_REFUSED, f"resolve_binaries: there is no {program}")

        jailer = str(program.with_name("jailer"))
        return cast("R", ops.Binaries(firecracker=str(program), jailer=jailer))


def program(path: Path, said: str) -> Path:
    """A program that says this, and a jailer of the same release beside it."""
    release = said.rpartition(" ")[2]
    for each, what in ((path, said), (path.with_name("jailer"), f"Jailer {release}")):
        each.write_text(f"#!/bin/sh\necho '{what}'\n")
        each.chmod(0o755)

    return path


def refusal(directory: Path, configuration: Path) -> BangerError:
    with pytest.raises(BangerError) as refused:
        require_firecracker(Root(directory), configuration)

    assert refused.value.hint
    assert "\n" not in refused.value.message
    return refused.value


def test_one_that_is_there_is_named(tmp_path: Path) -> None:
    program(tmp_path / "firecracker", "Firecracker v1.12.1")
    assert require_firecracker(Root(tmp_path), tmp_path / "none.toml") == "1.12.1"


def test_the_one_that_the_configuration_names_counts(tmp_path: Path) -> None:
    other = program(tmp_path / "other", "Firecracker v1.13.0")
    configuration = tmp_path / "config.toml"
    configuration.write_text(f'[hypervisor]\nfirecracker = "{other}"\n')
    assert require_firecracker(Root(tmp_path), configuration) == "1.13.0"


def test_without_one_nothing_is_installed(tmp_path: Path) -> None:
    error = refusal(tmp_path, tmp_path / "none.toml")
    assert error.code is ErrorCode.HYPERVISOR_MISSING
    assert error.hint
    assert "/usr/local/bin" in error.hint


@pytest.mark.parametrize("said", ["Firecracker v1.11.0", "Firecracker v2.0.0", "something else"])
def test_nor_with_one_that_banger_does_not_know(tmp_path: Path, said: str) -> None:
    program(tmp_path / "firecracker", said)
    assert refusal(tmp_path, tmp_path / "none.toml").code is ErrorCode.UNSUPPORTED_HOST


def test_nor_with_a_jailer_of_another_release(tmp_path: Path) -> None:
    program(tmp_path / "firecracker", "Firecracker v1.12.1")
    (tmp_path / "jailer").write_text("#!/bin/sh\necho 'Jailer v1.12.0'\n")
    error = refusal(tmp_path, tmp_path / "none.toml")
    assert error.code is ErrorCode.UNSUPPORTED_HOST
    assert "1.12.0" in error.message


def test_nor_with_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    configuration = tmp_path / "config.toml"
    configuration.write_text("[hypervisor\n")
    assert refusal(tmp_path, configuration).code is not ErrorCode.HYPERVISOR_MISSING
