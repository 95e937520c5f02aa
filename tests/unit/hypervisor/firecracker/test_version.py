"""Which Firecrackers are taken."""

from __future__ import annotations

import pytest

from banger.api.errors import ErrorCode, PermanentError
from banger.hypervisor.firecracker import version


def test_a_version_is_read_from_what_it_prints() -> None:
    assert version.parse("Firecracker v1.12.1\n\n2026 ... exiting successfully.\n") == "1.12.1"


@pytest.mark.parametrize("output", ["", "Firecracker v1.11.9", "Firecracker v2.0.0", "v1.12.1"])
def test_others_are_not_used(output: str) -> None:
    with pytest.raises(PermanentError) as raised:
        version.parse(output)

    assert raised.value.code is ErrorCode.UNSUPPORTED_HOST


def test_its_jailer_is_of_the_same_release() -> None:
    version.check_jailer("Jailer v1.12.1\n\n", "1.12.1")


@pytest.mark.parametrize("output", ["", "Jailer v1.12.0\n", "Jailer v1.12.10\n"])
def test_another_jailer_is_refused(output: str) -> None:
    with pytest.raises(PermanentError) as raised:
        version.check_jailer(output, "1.12.1")

    assert raised.value.code is ErrorCode.UNSUPPORTED_HOST
    assert "1.12.1" in raised.value.message


def test_what_no_test_has_seen_is_told_apart() -> None:
    assert not version.newer_than_tested("1.12.9")
    assert version.newer_than_tested(version.parse("Firecracker v1.14.0-dev"))
