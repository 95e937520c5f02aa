"""Which Firecrackers banger runs guests with."""

from __future__ import annotations

import re

from banger.api.errors import ErrorCode, PermanentError

# The first with network_overrides, without which no restored guest could have a tap of its own.
FLOOR = (1, 12)
# The newest that banger is tested with.
TESTED = (1, 12)
# Firecracker's releases keep their API within a major version (its RELEASE_POLICY.md).
CEILING = (2, 0)

_VERSION = re.compile(r"Firecracker v(\d{1,4})\.(\d{1,4})\.(\d{1,4}\S*)")
_JAILER = re.compile(r"Jailer v(\S+)")


def parse(output: str) -> str:
    """The version in what `firecracker --version` prints. Raises PermanentError(unsupported_host).

    It is one that banger knows how to use.
    """
    found = _VERSION.search(output)
    if found is None:
        raise _unsupported("firecracker does not say which version it is")

    version = ".".join(found.groups())
    if not FLOOR <= numbers(version) < CEILING:
        raise _unsupported(f"Firecracker {version} is not one that banger works with")

    return version


def check_jailer(output: str, version: str) -> None:
    """Refuse the jailer that says `output` of itself unless its release is Firecracker's `version`.

    Raises PermanentError(unsupported_host).
    """
    found = _JAILER.search(output)
    if found is None or found[1] != version:
        said = "one that does not say its version" if found is None else found[1]
        raise PermanentError(
            ErrorCode.UNSUPPORTED_HOST,
            f"Firecracker is {version} and its jailer {said}",
            hint="install both from the same release, and see: banger doctor",
        )


def numbers(version: str) -> tuple[int, int]:
    """Major and minor of a version that `parse` gave."""
    major, minor, _ = version.split(".", 2)
    return int(major), int(minor)


def newer_than_tested(version: str) -> bool:
    """Whether banger's tests have not seen such a new one."""
    return numbers(version) > TESTED


def _unsupported(what: str) -> PermanentError:
    floor, ceiling = (".".join(map(str, bound)) for bound in (FLOOR, CEILING))
    return PermanentError(
        ErrorCode.UNSUPPORTED_HOST,
        what,
        hint=f"install one of at least {floor} and below {ceiling}, and see: banger doctor",
    )
