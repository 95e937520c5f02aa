"""Where things are kept, and that nobody else gets in."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from banger.api.errors import ErrorCode, PermanentError
from banger.host.paths import (
    default_paths,
    ensure_private,
    owned_installation,
    system_paths,
)


def test_one_home_holds_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path))
    paths = default_paths()
    assert paths.config_file == tmp_path / "config.toml"
    assert {paths.state.parent, paths.cache.parent, paths.run.parent} == {tmp_path}


def test_without_a_home_the_xdg_directories_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BANGER_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/goes/at/logout")
    paths = default_paths()
    assert paths.state == tmp_path / "state" / "banger"
    assert paths.cache == tmp_path / ".cache" / "banger"
    assert paths.run == paths.state / "run"


def test_a_missing_directory_and_its_missing_parents_are_made_private(tmp_path: Path) -> None:
    ensure_private(tmp_path / "a" / "b")
    for made in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_others_can_enter_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(PermanentError, match="others can get in") as refusal:
        ensure_private(tmp_path / "open")
    assert refusal.value.code is ErrorCode.SOCKET_INSECURE
    assert refusal.value.hint


def test_a_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PermanentError, match="is not a directory"):
        ensure_private(tmp_path / "link")


def test_somebody_elses_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    (tmp_path / "theirs").mkdir(mode=0o700)
    with pytest.raises(PermanentError, match=f"belongs to uid {owner}, not to you"):
        ensure_private(tmp_path / "theirs")


def test_an_installation_is_ours_by_its_state(tmp_path: Path) -> None:
    state, metadata = tmp_path / "var/lib/banger", tmp_path / "etc/banger/install.toml"
    assert owned_installation(tmp_path) is None
    state.mkdir(parents=True)
    assert owned_installation(tmp_path) is None
    metadata.parent.mkdir(parents=True)
    metadata.touch()
    assert owned_installation(tmp_path) == system_paths()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_installation_of_somebody_elses_is_not_ours(tmp_path: Path) -> None:
    state, metadata = tmp_path / "var/lib/banger", tmp_path / "etc/banger/install.toml"
    state.mkdir(parents=True)
    metadata.parent.mkdir(parents=True)
    metadata.touch()
    os.chown(state, 65534, 65534)
    assert owned_installation(tmp_path) is None
