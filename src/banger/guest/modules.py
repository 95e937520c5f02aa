"""Kernel modules: which ones the guest needs before its root, and in which order they load.

Reads modules.dep (modules.dep(5)): `path: dependency dependency ...`, the dependency that has to
be inserted first named last.
"""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError

_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
}


@dataclass(frozen=True, slots=True)
class Module:
    """One module of a tree: its name as modprobe(8) knows it, and its file."""

    name: str
    path: Path

    def read(self) -> bytes:
        """The module's ELF image, unpacked if the tree keeps it packed."""
        return _UNPACK[self.path.suffix](self.path.read_bytes())


def load_order(tree: Path, wanted: Sequence[str]) -> tuple[Module, ...]:
    """The modules `wanted` and all they depend on, every one after its dependencies.

    `tree` holds modules.dep. A name the tree does not have is built into the kernel, so it is left
    out. Raises PermanentError(image_corrupt) if modules.dep is missing or names a file that is.
    """
    dependencies = _read_dependencies(tree)
    by_name = {_name(path): path for path in dependencies}
    order: dict[str, None] = {}
    for name in wanted:
        path = by_name.get(_canonical(name))
        if path is not None:
            order |= dict.fromkeys([*reversed(dependencies[path]), path])

    return tuple(_module(tree, path) for path in order)


def _read_dependencies(tree: Path) -> dict[str, list[str]]:
    index = tree / "modules.dep"
    try:
        lines = index.read_text().splitlines()
    except OSError as error:
        raise _corrupt(f"{index}: {error.strerror}") from None
    pairs = (line.partition(":") for line in lines)
    return {path: rest.split() for path, _, rest in pairs}


def _module(tree: Path, path: str) -> Module:
    module = Module(_name(path), tree / path)
    if not module.path.is_file():
        raise _corrupt(f"{module.path} is named in modules.dep but missing")
    if module.path.suffix not in _UNPACK:
        raise _corrupt(f"{module.path} is packed in a way this version cannot unpack")
    return module


def _name(path: str) -> str:
    return _canonical(Path(path).name.partition(".ko")[0])


def _canonical(name: str) -> str:
    return name.replace("-", "_")


def _corrupt(problem: str) -> PermanentError:
    return PermanentError(
        ErrorCode.IMAGE_CORRUPT, problem, hint="build it again with: banger image build --force"
    )
