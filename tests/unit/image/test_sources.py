"""Packages come from the host's Debian mirrors; strangers and passwords stay out of images."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.image.sources import (
    AptSetup,
    Source,
    credentials,
    deb822,
    host_setup,
    host_sources,
    is_debian,
    parse_targets,
    select,
    without_credentials,
)

MIRROR = "http://mirror.example/debian/"
SECURITY = "http://mirror.example/debian-security/"
UNKNOWN = "$(ORIGIN)"


def source(
    uri: str = MIRROR, release: str = "bookworm", component: str = "main", origin: str = "Debian"
) -> Source:
    return Source(uri, release, component, origin)


def test_only_package_indexes_count() -> None:
    text = (
        f"Packages\t{MIRROR}\tbookworm\tmain\tDebian\n"
        f"Translations\t{MIRROR}\tbookworm\tmain\tDebian\n"
        "garbage\n"
    )

    assert parse_targets(text) == [source()]


def test_a_mirror_list_in_a_file_becomes_its_first_mirror(tmp_path: Path) -> None:
    mirrors = tmp_path / "debian.list"
    mirrors.write_text(f"# the mirrors\n{MIRROR} priority:1\nhttp://other.example/debian\n")

    text = f"Packages\tmirror+file:{mirrors}\tbookworm\tmain\tDebian\n"

    assert parse_targets(text) == [source()]


@pytest.mark.parametrize(
    ("candidate", "wanted"),
    [
        (source(), True),
        (source(origin=UNKNOWN), True),
        (source(uri="https://user:pw@mirror.example/pub/debian-security", origin=UNKNOWN), True),
        (source(component="non-free-firmware"), True),
        (source(origin="Docker"), False),
        (source(origin="Raspbian"), False),
        (source(uri="https://packages.example/postgres", origin=UNKNOWN), False),
        (source(uri="https://download.example/linux/debian", component="stable"), False),
        (source(uri="file:///srv/debian"), False),
        (source(uri="cdrom:[Debian 12]/"), False),
    ],
)
def test_debian_is_told_from_strangers(candidate: Source, wanted: bool) -> None:
    assert is_debian(candidate) is wanted


def test_the_suite_comes_with_its_updates_and_security_fixes() -> None:
    ours = [source(), source(release="bookworm-updates"), source(SECURITY, "bookworm-security")]
    others = [source(release="trixie"), source("http://x.example/apt", origin="Other")]

    assert select([*ours, *others], "bookworm") == ours


def test_a_host_without_the_suites_main_is_of_no_use() -> None:
    partial = [source(release="bookworm-updates"), source(component="contrib")]

    assert select(partial, "bookworm") == []


def test_sources_are_written_as_apt_reads_them() -> None:
    found = [
        source(),
        source(component="contrib"),
        source(release="bookworm-updates"),
        source(SECURITY, "bookworm-security"),
    ]

    assert deb822(found, Path("/usr/share/keyrings/k.gpg")) == (
        f"Types: deb\nURIs: {MIRROR}\nSuites: bookworm\nComponents: main contrib\n"
        "Signed-By: /usr/share/keyrings/k.gpg\n\n"
        f"Types: deb\nURIs: {MIRROR}\nSuites: bookworm-updates\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/k.gpg\n\n"
        f"Types: deb\nURIs: {SECURITY}\nSuites: bookworm-security\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/k.gpg\n"
    )


def test_passwords_go_to_apts_own_file_and_not_to_the_guest() -> None:
    secret = [
        source("https://me:p%40ss@mirror.example/debian"),
        source("http://open.example/debian"),
    ]

    assert "p%40ss" not in deb822(secret, None)
    assert "https://mirror.example/debian" in deb822(secret, None)
    assert list(credentials(secret)) == [
        "machine https://mirror.example/debian login me password p@ss"
    ]


@given(
    st.text(st.characters(codec="ascii", exclude_characters="/@ \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"))
)
def test_no_user_name_survives_in_text(user: str) -> None:
    text = f"Err:1 https://{user}@mirror.example/debian bookworm"

    assert without_credentials(text) == "Err:1 https://mirror.example/debian bookworm"


def test_the_files_travel_privately() -> None:
    setup = AptSetup("sources", "mirror", "conf", "auth")

    with tarfile.open(fileobj=io.BytesIO(setup.archive())) as archive:
        assert {entry.mode for entry in archive} == {0o600}
        assert {entry.name for entry in archive} == {
            "host.sources", "mirror.conf", "apt.conf", "auth.conf",
        }  # fmt: skip


async def test_sources_count_before_apt_has_downloaded_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lists" / "partial").mkdir(parents=True)
    (tmp_path / "sources.list").write_text(f"deb {MIRROR} bookworm main contrib\n")
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "-";\n'
        f'Dir::State::lists "{tmp_path}/lists";\nDir::Cache "{tmp_path}";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))

    assert await host_sources() == [
        source(origin=UNKNOWN),
        source(component="contrib", origin=UNKNOWN),
    ]


async def test_what_apt_has_downloaded_is_there_once() -> None:
    found = await host_sources()
    assert len({(each.uri, each.release, each.component) for each in found}) == len(set(found))


async def test_this_hosts_own_apt_can_be_asked() -> None:
    setup = await host_setup("no-such-suite")

    assert setup.sources == ""
    assert setup.mirror == ""
    assert 'Acquire::Languages "none";' in setup.configuration
