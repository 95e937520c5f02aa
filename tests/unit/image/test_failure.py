"""A failed build is one line, the one that matters out of everything apt and dpkg print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import ErrorCode, ErrorKind
from banger.image.failure import explain

AFTERMATH = """\
E: Some index files failed to download. They have been ignored, or old ones used instead.
E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> failed
I: main() received signal PIPE: waiting for setup...
E: mmdebstrap failed to run
"""


@pytest.mark.parametrize(
    ("output", "code", "kind", "message"),
    [
        (
            "E: Failed to fetch http://m.example/R  Temporary failure resolving 'm.example'",
            ErrorCode.IMAGE_BUILD_FAILED,
            ErrorKind.TRANSIENT,
            "Temporary failure resolving 'm.example'",
        ),
        (
            "E: Failed to fetch http://m.example/x.deb  Could not connect to m.example:80",
            ErrorCode.IMAGE_BUILD_FAILED,
            ErrorKind.TRANSIENT,
            "cannot be downloaded",
        ),
        (
            "E: Unable to locate package gti",
            ErrorCode.IMAGE_BUILD_FAILED,
            ErrorKind.CALLER,
            "there is no package gti in bookworm",
        ),
        (
            "E: Package 'telnetd-ssl' has no installation candidate",
            ErrorCode.IMAGE_BUILD_FAILED,
            ErrorKind.CALLER,
            "there is no package telnetd-ssl in bookworm",
        ),
        (
            "tar: ./usr/lib/x: Cannot write: No space left on device",
            ErrorCode.INSUFFICIENT_DISK,
            ErrorKind.PERMANENT,
            "the disk is full",
        ),
        (
            "E: The repository 'http://m.example bookwrm Release' does not have a Release file.",
            ErrorCode.IMAGE_BUILD_FAILED,
            ErrorKind.PERMANENT,
            "does not have a Release file",
        ),
        (
            "dpkg: regarding x, pre-dependency problem:\nE: the packages install no kernel",
            ErrorCode.IMAGE_BUILD_FAILED,
            ErrorKind.PERMANENT,
            "could not be built: the packages install no kernel",
        ),
        (
            "dpkg: error processing package foo (--configure):\nE: Sub-process env returned (1)",
            ErrorCode.IMAGE_BUILD_FAILED,
            ErrorKind.PERMANENT,
            "dpkg: error processing package foo",
        ),
    ],
)
def test_the_line_that_matters_is_found(
    output: str, code: ErrorCode, kind: ErrorKind, message: str
) -> None:
    error = explain(f"I: running apt-get update...\n{output}\n{AFTERMATH}", "bookworm")

    assert (error.code, error.kind) == (code, kind)
    assert message in error.message
    assert error.hint


def test_missing_keys_come_with_the_package_that_has_them() -> None:
    error = explain("E: The repository is not signed. NO_PUBKEY 0E98404D386FA1D9", "bookworm")

    assert "debian-archive-keyring" in (error.hint or "")


def test_passwords_are_not_repeated() -> None:
    error = explain("E: Failed to fetch https://me:secret@m.example/x  404", "bookworm")

    assert "secret" not in error.message


@given(st.text())
def test_any_output_gives_one_line(output: str) -> None:
    message = explain(output, "bookworm").message

    assert message
    assert len(message.splitlines()) == 1
