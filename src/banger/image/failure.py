"""Why a build failed, in one line, made out of all that mmdebstrap, apt and dpkg printed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from banger.api.errors import BangerError, CallerError, ErrorCode, PermanentError, TransientError
from banger.host.files import MAKE_ROOM
from banger.image.sources import without_credentials

_NO_NETWORK = re.compile(
    r"Temporary failure resolving|Could not resolve|(Could not|Unable to|Cannot) (connect|initiate)"
    r"|onnection (timed out|refused|failed)|Network is unreachable|No route to host",
)
_NO_PACKAGE = re.compile(r"E: Unable to locate package (\S+)|E: Package '?([^'\s]+)'? has no")
_NO_KEY = re.compile(r"NO_PUBKEY|is not signed|signatures couldn't be verified|keyring.*not")
_NO_RELEASE = re.compile(r"does not have a Release file|404\s+Not Found")
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|not have enough (free )?space")

# What mmdebstrap and apt say after something else has failed, which said why.
_AFTERMATH = re.compile(
    r"E: (Some index files|Sub-process|mmdebstrap|setup failed|run_|apt-get |env |chroot "
    r"|.* failed$)"
)
_OTHERS = re.compile(r"dpkg: error|(tar|mke2fs|mount|cp|mv|install|unshare|debugfs|sh): ")


def explain(output: str, suite: str) -> BangerError:
    """The error for a build of `suite` that printed `output` and failed."""
    text = without_credentials(output)
    if _NO_SPACE.search(text):
        return PermanentError(
            ErrorCode.INSUFFICIENT_DISK,
            "the disk is full: the image could not be built",
            hint=MAKE_ROOM,
        )
    if match := _NO_PACKAGE.search(text):
        return CallerError(
            ErrorCode.IMAGE_BUILD_FAILED,
            f"there is no package {match[1] or match[2]} in {suite}",
            hint="correct the recipe; apt-cache search WORD finds packages",
        )
    reason = next(_reasons(text), "it gave no reason")
    if _NO_NETWORK.search(text):
        return TransientError(
            ErrorCode.IMAGE_BUILD_FAILED,
            f"the packages cannot be downloaded: {reason}",
            hint="check the network and apt's proxy settings (apt-get update must work), try again",
        )
    return PermanentError(
        ErrorCode.IMAGE_BUILD_FAILED, f"the image could not be built: {reason}", hint=_hint(text)
    )


def _hint(text: str) -> str:
    if _NO_KEY.search(text):
        return "install Debian's keys: apt-get install debian-archive-keyring"
    if _NO_RELEASE.search(text):
        return "check the suite in the recipe, and that apt-get update works on this host"
    return "the daemon's log has all that was printed"


def _reasons(text: str) -> Iterator[str]:
    """Lines that may say why, the most telling first."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E: ")]
    yield from (line[3:] for line in errors if not _AFTERMATH.match(line))
    yield from (line for line in lines if _OTHERS.match(line))
    yield from (line[3:] for line in reversed(errors))
    yield from reversed(lines)
