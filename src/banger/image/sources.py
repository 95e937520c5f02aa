"""Where packages come from: the host's own apt set-up, as far as it serves the wanted suite.

apt itself is asked (apt-get(8) indextargets, apt-config(8) dump), so both formats of its source
files and every option are understood the way apt understands them. User names and passwords are
taken out of what the guest gets to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import tarfile
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from banger.host import runner

_FIELDS = ("CREATED_BY", "REPO_URI", "RELEASE", "COMPONENT", "ORIGIN")
_LIST = ("apt-get", "indextargets", "--format", "\t".join(f"$({field})" for field in _FIELDS))
_POCKETS = ("", "-updates", "-security", "-backports")
_COMPONENTS = ("main", "contrib", "non-free", "non-free-firmware")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_AUTH = Path("/etc/apt")
_MIRROR_FILE = "mirror+file:"

# What says how to reach a mirror, and what says that a mirror is old (for the guest as well).
_REACH = re.compile(r"(?i)Acquire::(https?|Retries|ForceIPv[46]|Check-\w+|Max-FutureTime)\b")
_AGE = re.compile(r"(?i)Acquire::(Check-Valid-Until|Check-Date|Max-FutureTime)\b")


@dataclass(frozen=True, slots=True)
class Source:
    """One line of `apt-get indextargets`: a component of a release at an address."""

    uri: str
    release: str
    component: str
    origin: str


@dataclass(frozen=True, slots=True)
class AptSetup:
    """Files for build.sh, by meaning. Only `sources` and `mirror` may end up in an image.

    `sources` is in deb822 style (sources.list(5)), empty for mmdebstrap's own mirror; `auth` is as
    in apt_auth.conf(5).
    """

    sources: str
    mirror: str
    configuration: str
    auth: str

    def archive(self) -> bytes:
        """The four files as a tar archive."""
        files = {
            "host.sources": self.sources,
            "mirror.conf": self.mirror,
            "apt.conf": self.configuration,
            "auth.conf": self.auth,
        }
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, text in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(text.encode())
                entry.mode = 0o600
                archive.addfile(entry, io.BytesIO(text.encode()))

        return buffer.getvalue()


async def host_setup(suite: str) -> AptSetup:
    """What this host's apt knows about `suite`; of no use to another suite, it still has a proxy.

    Raises PermanentError(tool_missing) when there is no apt.
    """
    found = select(await host_sources(), suite)
    options = (await runner.run(["apt-config", "dump", "Acquire"])).text.splitlines()
    return AptSetup(
        sources=deb822(found, _KEYRING if await asyncio.to_thread(_KEYRING.exists) else None),
        mirror=_lines(line for line in options if found and _AGE.match(line)),
        configuration=_lines(
            [*(line for line in options if _REACH.match(line)), 'Acquire::Languages "none";']
        ),
        auth=_lines([*_host_auth(), *credentials(found)]),
    )


async def host_sources() -> list[Source]:
    """All that this host's apt is told to use, downloaded or not.

    Raises PermanentError(tool_missing) when there is no apt.
    """
    described = parse_targets((await runner.run(_LIST, check=False)).text)
    # What has no release file yet is left out above: on a host where apt has never been updated, or
    # whose lists were removed to save room, that is everything.
    named = parse_targets((await runner.run([*_LIST, "--no-release-info"], check=False)).text)
    seen = {(source.uri, source.release, source.component) for source in described}
    more = [each for each in named if (each.uri, each.release, each.component) not in seen]
    # A component may have an index for each of several architectures.
    return list(dict.fromkeys([*described, *more]))


def parse_targets(text: str) -> list[Source]:
    """The package indexes among the lines that `apt-get indextargets` printed for `_FIELDS`."""
    rows = (line.split("\t") for line in text.splitlines())
    return [
        Source(_resolve(row[1]), row[2], row[3], row[4])
        for row in rows
        if len(row) == len(_FIELDS) and row[0] == "Packages"
    ]


def select(sources: list[Source], suite: str) -> list[Source]:
    """Debian's own of `sources` for `suite`; none at all unless they hold the suite's main."""
    wanted = {suite + pocket for pocket in _POCKETS}
    found = [source for source in sources if source.release in wanted and is_debian(source)]
    whole = any((source.release, source.component) == (suite, "main") for source in found)
    return found if whole else []


def is_debian(source: Source) -> bool:
    """Whether it is the Debian archive or a mirror of it, and not somebody else's for Debian.

    apt knows the origin once it has downloaded the release file; before that, the address of a
    mirror ends in the archive's name. A wrong guess fails later, at the signature.
    """
    address = urllib.parse.urlsplit(source.uri)
    if address.scheme not in ("http", "https") or source.component not in _COMPONENTS:
        return False
    if not source.origin.startswith("$("):
        return source.origin == "Debian"
    return address.path.rstrip("/").rpartition("/")[2] in ("debian", "debian-security")


def deb822(sources: list[Source], keyring: Path | None) -> str:
    """`sources` as a deb822-style source file, without user names and passwords."""
    grouped: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (uri, release), components in _components(sources).items():
        grouped.setdefault((uri, components), []).append(release)

    stanzas = (
        f"Types: deb\nURIs: {uri}\nSuites: {' '.join(releases)}\n"
        f"Components: {' '.join(components)}\n" + (f"Signed-By: {keyring}\n" if keyring else "")
        for (uri, components), releases in grouped.items()
    )
    return "\n".join(stanzas)


def credentials(sources: list[Source]) -> Iterator[str]:
    """A line of apt_auth.conf(5) for each address with a user name or password in it."""
    for uri in dict.fromkeys(source.uri for source in sources):
        parts = urllib.parse.urlsplit(uri)
        if parts.username is not None:
            login = urllib.parse.unquote(parts.username)
            password = urllib.parse.unquote(parts.password or "")
            yield f"machine {without_credentials(uri)} login {login} password {password}"


def without_credentials(text: str) -> str:
    """`text` with the user name and password gone from every URI in it."""
    return re.sub(r"(?<=://)[^/\s@]*@", "", text)


def _components(sources: list[Source]) -> dict[tuple[str, str], tuple[str, ...]]:
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for source in sources:
        place = (without_credentials(source.uri), source.release)
        found[place] = tuple(dict.fromkeys((*found.get(place, ()), source.component)))

    return found


def _resolve(uri: str) -> str:
    # Debian's cloud images name their mirrors in a file, apt-transport-mirror(1); the guest has no
    # such file, so it gets the first of them.
    if not uri.startswith(_MIRROR_FILE):
        return uri
    try:
        lines = Path(uri.removeprefix(_MIRROR_FILE)).read_text().splitlines()
    except OSError:
        return uri
    mirrors = (line.split()[0] for line in lines if line.strip() and not line.startswith("#"))
    return next(mirrors, uri)


def _host_auth() -> Iterator[str]:
    # An ordinary user may not be allowed to read them; then they are of no use to this build.
    for path in (_AUTH / "auth.conf", *sorted((_AUTH / "auth.conf.d").glob("*.conf"))):
        with contextlib.suppress(OSError):
            yield from path.read_text().splitlines()


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
