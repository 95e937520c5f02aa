"""A store of immutable directories under content ids, with names that point at them.

    <root>/<id>/manifest.json   what it is, and a record of every file beside it
    <root>/<id>/...             the files, mode 0444
    <root>/names/<name>         symbolic link to ../<id>
    <root>/.stage-*             being filled, or abandoned
    <root>/.trash-*             being removed

Ids are the first 16 hex digits of a SHA-256 over the files' paths and digests. A directory appears
under its id whole or not at all, and a name always points at a whole one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.host.files import remove_tree, room_for, write_atomic
from banger.image.claims import abandoned, claim
from banger.image.content import FileRecord, record, untouched

log = logging.getLogger(__name__)

About = TypeVar("About", bound=msgspec.Struct)

MANIFEST = "manifest.json"
MANIFEST_VERSION = 1

_STAGE = ".stage-"
_TRASH = ".trash-"
_ID = re.compile(r"[0-9a-f]{16}\Z")


class Manifest(msgspec.Struct, Generic[About], frozen=True):
    """What an artifact is, and its files by path relative to its directory."""

    version: int
    about: About
    files: dict[str, FileRecord]


class Artifacts(Generic[About]):
    """Artifacts of one kind (`kind` is the word for it). Blocking; safe between processes."""

    def __init__(
        self, root: Path, manifest: type[Manifest[About]], kind: str, unknown: ErrorCode, hint: str
    ) -> None:
        self.root = root
        self._names = root / "names"
        self._manifest = manifest
        self._kind = kind
        self._unknown = unknown
        self._hint = hint

    def names(self) -> dict[str, str]:
        """Every name and the id it points at, sorted by name."""
        links = sorted(self._names.glob("[!.]*"))
        targets = {link.name: link.readlink().name for link in links if link.is_symlink()}
        return {name: target for name, target in targets.items() if self.has(target)}

    def named(self) -> list[tuple[str, About]]:
        """Every name with what it stands for. One whose manifest is damaged is logged, left out."""
        found = [(name, self._about(name, target)) for name, target in self.names().items()]
        return [(name, about) for name, about in found if about is not None]

    def resolve(self, name: str) -> str:
        """The id `name` points at. Raises CallerError(unknown_image or unknown_kernel)."""
        try:
            return self.names()[name]
        except KeyError:
            raise self._no_such(name) from None

    def get(self, artifact: str) -> tuple[About, Path]:
        """What the artifact with that id is and where, its files verified.

        A file that looks untouched since it was recorded is taken as right; another is read whole,
        which takes about a second a gigabyte. Raises CallerError(unknown_image or unknown_kernel),
        PermanentError(image_corrupt).
        """
        if not self.has(artifact):
            raise self._no_such(artifact)
        manifest = self._read(artifact)
        directory = self.root / artifact
        try:
            touched = [
                name for name, at in manifest.files.items() if not untouched(directory / name, at)
            ]
            if touched:
                self._verify(directory, touched, manifest)
        except OSError as error:
            raise self._corrupt(artifact, f"{error.filename}: {error.strerror}") from None
        return manifest.about, directory

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A private directory on the store's file system to fill; gone after the block."""
        with room_for(self.root), claim(self.root, _STAGE) as directory:
            try:
                yield directory
            finally:
                remove_tree(directory)

    def publish(self, staged: Path, name: str, describe: Callable[[str], About]) -> About:
        """Make `staged`, a directory from `staging`, an artifact that `name` points at from now on.

        `describe` gets the id and tells what it is. The same content published before stays as it
        is. All of it is on disk when this returns. Raises PermanentError(insufficient_disk).
        """
        with room_for(self.root):
            files = {str(path.relative_to(staged)): _seal(path) for path in _files(staged)}
            artifact = _identify(files)
            about = describe(artifact)
            _write_manifest(staged, Manifest(MANIFEST_VERSION, about, files))
            with self._locked():
                if not self._holds(artifact, files):
                    self._discard(artifact)
                    staged.rename(self.root / artifact)
                self._point(name, artifact)

        return about

    def has(self, artifact: str) -> bool:
        """Whether there is an artifact with that id; anything that is no id is not there."""
        return _ID.match(artifact) is not None and (self.root / artifact / MANIFEST).is_file()

    def ids(self) -> set[str]:
        """The ids of all artifacts, named or not."""
        return {entry.name for entry in self.root.glob("*") if self.has(entry.name)}

    def discard(self, doomed: set[str]) -> None:
        """Remove the artifacts with those ids, and the names that point at them."""
        with self._locked():
            for name, artifact in self.names().items():
                if artifact in doomed:
                    (self._names / name).unlink()

            for artifact in doomed:
                self._discard(artifact)

    def unname(self, name: str) -> None:
        """Take the name away; what it pointed at stays until `prune`. Raises as `resolve` does."""
        with self._locked():
            self.resolve(name)
            (self._names / name).unlink()

    def unreferenced(self, used: set[str]) -> list[str]:
        """The ids that no name points at and that are not in `used`."""
        return sorted(self.ids() - used - set(self.names().values()))

    def prune(self, used: set[str]) -> list[str]:
        """Remove what `unreferenced` lists, and say what that was."""
        with self._locked():
            doomed = self.unreferenced(used)
            for artifact in doomed:
                self._discard(artifact)

        return doomed

    def sweep(self) -> None:
        """Remove what a crash left of `staging` and `prune`."""
        for prefix in (_STAGE, _TRASH):
            for directory in abandoned(self.root, prefix):
                remove_tree(directory)

    def _about(self, name: str, artifact: str) -> About | None:
        try:
            return self._read(artifact).about
        except PermanentError as error:
            log.warning("%s %s is left out: %s", self._kind, name, error.message)
            return None

    def _read(self, artifact: str) -> Manifest[About]:
        try:
            data = (self.root / artifact / MANIFEST).read_bytes()
            manifest = msgspec.json.decode(data, type=self._manifest)
        except (OSError, msgspec.DecodeError) as error:
            raise self._corrupt(artifact, f"its manifest cannot be read ({error})") from None
        if manifest.version != MANIFEST_VERSION:
            raise self._corrupt(artifact, f"its manifest has unknown version {manifest.version}")
        return manifest

    def _verify(self, directory: Path, touched: list[str], manifest: Manifest[About]) -> None:
        files = dict(manifest.files)
        for name in touched:
            log.info("checking all of %s", directory / name)
            files[name] = record(directory / name)
            if files[name].digest != manifest.files[name].digest:
                raise self._corrupt(directory.name, f"{name} is not what was built")

        # The content is right, so remember how it looks now: a copied state directory, say.
        _write_manifest(directory, msgspec.structs.replace(manifest, files=files))

    def _holds(self, artifact: str, files: dict[str, FileRecord]) -> bool:
        try:
            self.get(artifact)
            return _contents(self._read(artifact).files) == _contents(files)
        except (CallerError, PermanentError):
            return False

    def _point(self, name: str, artifact: str) -> None:
        self._names.mkdir(mode=0o700, exist_ok=True)
        link = self._names / f".{name}.{secrets.token_hex(4)}"
        link.symlink_to(Path("..") / artifact)
        link.replace(self._names / name)
        _sync(self._names)
        _sync(self.root)

    def _discard(self, artifact: str) -> None:
        directory = self.root / artifact
        if directory.exists():
            # Renamed first, so that half of one is never taken for a whole one.
            remove_tree(directory.rename(self.root / f"{_TRASH}{artifact}-{secrets.token_hex(4)}"))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _no_such(self, what: str) -> CallerError:
        return CallerError(self._unknown, f"there is no {self._kind} {what!r}", hint=self._hint)

    def _corrupt(self, artifact: str, problem: str) -> PermanentError:
        return PermanentError(
            ErrorCode.IMAGE_CORRUPT,
            f"{self._kind} {artifact} is damaged: {problem}",
            hint="build it again with: banger image build NAME --force",
        )


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _seal(path: Path) -> FileRecord:
    path.chmod(0o444)
    _sync(path)
    _sync(path.parent)
    return record(path)


def _identify(files: dict[str, FileRecord]) -> str:
    text = "".join(f"{name}\0{known}\n" for name, known in sorted(_contents(files).items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _contents(files: dict[str, FileRecord]) -> dict[str, str]:
    return {name: known.digest for name, known in files.items()}


def _write_manifest(directory: Path, manifest: Manifest[About]) -> None:
    write_atomic(directory / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
