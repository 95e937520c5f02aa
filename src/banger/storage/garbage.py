"""Layers that nothing needs any more: found by what the disks in use consist of, and removed.

First list, then ask the store which tops there are, then `unreachable`: since a top is recorded
before its file is made, a file that was listed belongs to a recorded top or to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import PermanentError
from banger.host.files import allocated_bytes
from banger.storage.layers import backing_file, chain, is_layer

_PART = ".part"


@dataclass(frozen=True, slots=True)
class Unreachable:
    """`files` in the order they have to go; `unreadable` says which chains nobody could follow."""

    files: tuple[Path, ...]
    unreadable: tuple[PermanentError, ...]


@dataclass(frozen=True, slots=True)
class Freed:
    """The names of the files that were removed, and the bytes on disk they took."""

    names: tuple[str, ...]
    allocated: int


def list_layers(directory: Path) -> tuple[Path, ...]:
    """The layers in `directory` and what is left of unfinished ones; nothing else is ours."""
    if not directory.exists():
        return ()

    return tuple(
        entry
        for entry in sorted(directory.iterdir())
        if is_layer(_finished(entry)) and entry.is_file() and not entry.is_symlink()
    )


def unreachable(listed: Sequence[Path], tops: Iterable[Path], *, idle: bool = False) -> Unreachable:
    """Those of `listed` that no chain of `tops` reaches, overlays before what they lie over.

    A top that does not exist (yet) is fine. When a chain cannot be followed, any layer may belong
    to it, so none is garbage. Unfinished files of tops stay, unless `idle` says that nobody is at
    work on them. Blocks: run it in a thread.
    """
    known = set(tops)
    needed, unreadable = _reachable(top for top in known if top.exists())
    names = {top.name for top in known}
    parts = [
        file
        for file in listed
        if file.suffix == _PART and (idle or _finished(file).name not in names)
    ]
    layers = [
        file
        for file in listed
        if file.suffix != _PART and file.name not in needed | names and not unreadable
    ]
    return Unreachable((*parts, *_top_down(layers)), unreadable)


def sweep(files: Iterable[Path]) -> Freed:
    """Remove `files` in this order; what is gone already is fine. Raises OSError.

    Ended at any point, it leaves no overlay without what it lies over. Blocks: run it in a thread.
    """
    names = []
    allocated = 0
    for file in files:
        size = allocated_bytes(file)
        try:
            file.unlink()
        except FileNotFoundError:
            continue
        names.append(file.name)
        allocated += size

    return Freed(tuple(names), allocated)


def _finished(file: Path) -> Path:
    return file.with_suffix("") if file.suffix == _PART else file


def _reachable(tops: Iterable[Path]) -> tuple[set[str], tuple[PermanentError, ...]]:
    """The names in the chains of `tops`: names, since a directory may have several paths."""
    names: set[str] = set()
    unreadable = []
    for top in tops:
        try:
            names.update(member.name for member in chain(top))
        except PermanentError as error:
            unreadable.append(error)

    return names, tuple(unreadable)


def _top_down(layers: Sequence[Path]) -> list[Path]:
    below = {layer: _name_below(layer) for layer in layers}
    ordered: list[Path] = []
    while below:
        lower = set(below.values())
        # In a loop, which is corrupt, no order is better than another.
        free = [layer for layer in below if layer.name not in lower] or list(below)
        ordered += free
        for layer in free:
            del below[layer]

    return ordered


def _name_below(layer: Path) -> str | None:
    try:
        backing = backing_file(layer)
    except PermanentError:
        # Nobody needs it, so nobody is to be told.
        return None

    return None if backing is None else backing.name
