"""Putting files and directories on a host so that all of it can be taken back.

Each call leaves things as wanted, whatever was there before, and notes how to undo that; an undo
restores what was there. So the same calls install, repair and upgrade.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from banger.host.files import remove_tree, sync, write_atomic
from banger.install.owner import Owner


@dataclass(frozen=True, slots=True)
class Tree:
    """A host's files below `root`, which is `/` or where a package is put together."""

    root: Path
    undo: contextlib.ExitStack

    def at(self, path: Path) -> Path:
        """Where the host's `path` is."""
        return self.root / path.relative_to("/")

    def directory(self, path: Path, mode: int, owner: Owner | None = None) -> None:
        """A directory of `owner`'s (root's if None) with `mode`; a symlink there is an error."""
        place = self.at(path)
        for parent in reversed(place.parents):
            if not parent.exists():
                self._make(parent)

        made = not os.path.lexists(place)
        if made:
            self._make(place)

        # Pinned, for the directory above may be the owner's.
        pin = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            before = os.fstat(pin)
            if not made:
                self.undo.callback(_restore_modes, place, before)

            if owner is not None:
                os.fchown(pin, owner.uid, owner.gid)
            elif before.st_uid != os.geteuid():
                os.fchown(pin, os.geteuid(), os.getegid())

            os.fchmod(pin, mode)
        finally:
            os.close(pin)

    def file(self, path: Path, content: str, mode: int = 0o644) -> None:
        """A file of root's with `content`."""
        place = self.at(path)
        if not place.parent.exists():
            self.directory(path.parent, 0o755)

        before = place.read_bytes() if place.is_file() and not place.is_symlink() else None
        self.undo.callback(_restore_file, place, before, mode)
        write_atomic(place, content.encode(), mode)

    def link(self, path: Path, target: Path) -> None:
        """A symlink to `target`, unless something else has that name already."""
        place = self.at(path)
        if place.exists() and not place.is_symlink():
            return

        before = str(place.readlink()) if place.is_symlink() else None
        self.undo.callback(_restore_link, place, before)
        _link(place, str(target))

    def swap(self, path: Path, new: Path) -> Path | None:
        """Put the directory `new`, which is beside it, in the place of `path`.

        Returns where the old one is kept until somebody removes it.
        """
        place = self.at(path)
        aside = place.with_name(f".{place.name}.old")
        remove_tree(aside)
        old = None
        if os.path.lexists(place):
            place.rename(aside)
            old = aside

        self.undo.callback(_restore_tree, place, old)
        new.rename(place)
        sync(place.parent)
        return old

    def _make(self, place: Path) -> None:
        place.mkdir(mode=0o755)
        place.chmod(0o755)
        self.undo.callback(_remove_if_empty, place)


def _remove_if_empty(place: Path) -> None:
    # What has come into it since is not ours to take.
    with contextlib.suppress(OSError):
        place.rmdir()


def _restore_modes(place: Path, before: os.stat_result) -> None:
    os.chown(place, before.st_uid, before.st_gid, follow_symlinks=False)
    place.chmod(before.st_mode & 0o7777)


def _restore_file(place: Path, before: bytes | None, mode: int) -> None:
    if before is None:
        place.unlink(missing_ok=True)
    else:
        write_atomic(place, before, mode)


def _restore_link(place: Path, before: str | None) -> None:
    if before is None:
        place.unlink(missing_ok=True)
    else:
        _link(place, before)


def _restore_tree(place: Path, old: Path | None) -> None:
    remove_tree(place)
    if old is not None:
        old.rename(place)


def _link(place: Path, target: str) -> None:
    part = place.with_name(f".{place.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(place)
