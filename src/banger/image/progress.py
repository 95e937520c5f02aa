"""What a build says about itself, made out of what mmdebstrap, apt and dpkg print."""

from __future__ import annotations

import re
from collections.abc import Callable

Report = Callable[[str, str | None], None]

RESOLVE = "resolve packages"
UNPACK = "download and unpack"
WRITE = "write root filesystem"
EXTRACT = "extract kernel"
PUBLISH = "publish"

_INSTALLED = re.compile(r"\d+ upgraded, (\d+) newly installed")
_SIZE = re.compile(r"Need to get ([\d.,]+ \w+)(?:/[\d.,]+ \w+)? of archives")
_PACKAGE = re.compile(r"(Unpacking|Setting up) ([a-z0-9][a-z0-9+.-]+)")
_STAGE = re.compile(r"banger: (.+)")

# Each package is seen twice; telling about every one would cost more than it says.
_EVERY = 5


class Progress:
    """Reads a build's messages line by line and reports `stage, detail`, also the same stage again.

    The numbers count packages unpacked and set up; the total grows once, because apt works out the
    essential packages first.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._done = 0
        self._total = 0

    def hear(self, line: str) -> None:
        """Take note of one line."""
        if match := _PACKAGE.match(line):
            self._package(match[1].lower(), match[2])
        elif match := _SIZE.match(line):
            self._report(UNPACK, f"downloading {match[1]}")
        elif match := _INSTALLED.match(line):
            self._total += 2 * int(match[1])
        elif match := _STAGE.match(line):
            self._report(match[1], None)

    def _package(self, action: str, name: str) -> None:
        self._done += 1
        if self._done % _EVERY == 0:
            percent = min(99, 100 * self._done // max(self._total, self._done, 1))
            self._report(UNPACK, f"{action} {name} ({percent} %)")
