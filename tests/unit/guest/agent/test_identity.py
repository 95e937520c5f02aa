"""What `identity` writes where, as far as it can be done to a machine that is not to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger.guest.agent import identity
from banger.guest.agent.system import rewrite_file

OLD, NEW = "0" * 32, "1" * 32


@pytest.fixture
def applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "applied"
    monkeypatch.setattr(identity, "APPLIED", str(folder))
    monkeypatch.setattr(identity, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    return folder


def test_resolvers_are_written_when_they_are_others_than_banger_wrote_last(
    applied: Path, tmp_path: Path
) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    identity.set_resolvers({"dns": ["10.0.0.1", "10.0.0.2"]})
    assert resolv_conf.read_text() == "nameserver 10.0.0.1\nnameserver 10.0.0.2\n"

    resolv_conf.write_text("the user's\n")
    identity.set_resolvers({"dns": ["10.0.0.1", "10.0.0.2"]})
    assert resolv_conf.read_text() == "the user's\n"

    identity.set_resolvers({"dns": []})
    assert resolv_conf.read_text() == ""


@pytest.mark.parametrize("servers", [[], ["10.0.0.1"], ["10.0.0.1", "10.0.0.2"]])
def test_what_is_noted_is_what_init_would_have_noted(applied: Path, servers: list[str]) -> None:
    """In `guest/files/init`: apply dns "servers${dns:+ $dns}"."""
    identity.set_resolvers({"dns": servers})

    dns = " ".join(servers)
    assert (applied / "dns").read_text() == f"servers{' ' + dns if dns else ''}\n"


def test_the_journal_goes_along_and_who_writes_it_notices_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "JOURNALS", (str(tmp_path), str(tmp_path / "not there")))
    (tmp_path / OLD).mkdir()
    (tmp_path / OLD / "system.journal").write_text("entries")
    identity.link_journals(OLD, NEW)

    assert (tmp_path / NEW / "system.journal").read_text() == "entries"
    (tmp_path / OLD / "rotated").touch()
    assert sorted(path.name for path in (tmp_path / NEW).iterdir()) == ["rotated", "system.journal"]


def test_a_journal_that_is_there_already_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "JOURNALS", (str(tmp_path),))
    for name in (OLD, NEW):
        (tmp_path / name).mkdir()

    identity.link_journals(OLD, NEW)
    identity.link_journals(NEW, NEW)

    assert sorted(path.name for path in tmp_path.iterdir()) == [OLD, NEW]


def test_a_file_that_is_there_is_written_in_place_with_the_mode_it_is_to_have(
    tmp_path: Path,
) -> None:
    key = tmp_path / "key"
    key.write_text("an old one that is longer")
    key.chmod(0o644)
    before = key.stat().st_ino

    rewrite_file(str(key), "secret", 0o600)

    info = key.stat()
    assert (key.read_text(), info.st_ino, info.st_mode & 0o777) == ("secret", before, 0o600)


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("another's")
    link = tmp_path / "link"
    link.symlink_to(other)

    rewrite_file(str(link), "own")

    assert (link.read_text(), other.read_text(), link.is_symlink()) == ("own", "another's", False)
