"""Which modules are inserted, and in which order."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import ErrorCode, PermanentError
from banger.guest.modules import load_order


def tree_of(folder: Path, dependencies: dict[str, list[str]]) -> Path:
    lines = [f"{path}: {' '.join(needs)}".rstrip() for path, needs in dependencies.items()]
    (folder / "modules.dep").write_text("\n".join(lines))
    for path in dependencies:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode())
    return folder


VIRTIO = {
    "kernel/virtio.ko": ["kernel/virtio_ring.ko"],
    "kernel/virtio_ring.ko": [],
    "kernel/virtio_blk.ko": ["kernel/virtio.ko", "kernel/virtio_ring.ko"],
    "kernel/virtio-rng.ko": ["kernel/virtio.ko", "kernel/virtio_ring.ko"],
}


def names(tree: Path, *wanted: str) -> list[str]:
    return [module.name for module in load_order(tree, wanted)]


def test_dependencies_come_first(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, VIRTIO)
    assert names(tree, "virtio_blk") == ["virtio_ring", "virtio", "virtio_blk"]


def test_each_module_comes_once(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, VIRTIO)
    assert names(tree, "virtio_blk", "virtio", "virtio_blk").count("virtio") == 1


def test_dash_and_underscore_are_one_as_in_modprobe(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, VIRTIO)
    assert names(tree, "virtio_rng") == names(tree, "virtio-rng")


def test_what_the_kernel_has_built_in_is_left_out(tmp_path: Path) -> None:
    assert names(tree_of(tmp_path, VIRTIO), "ext4") == []


@given(st.permutations(range(6)))
def test_any_chain_of_dependencies_loads_from_its_end(numbers: list[int]) -> None:
    import tempfile

    chain = [f"kernel/m{number}.ko" for number in numbers]
    with tempfile.TemporaryDirectory() as folder:
        tree = tree_of(Path(folder), {p: chain[i + 1 :] for i, p in enumerate(chain)})
        assert names(tree, f"m{numbers[0]}") == [f"m{number}" for number in reversed(numbers)]


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_packed_modules_are_unpacked(tmp_path: Path, suffix: str, pack: type[bytes]) -> None:
    tree = tree_of(tmp_path, {f"kernel/m.ko{suffix}": []})
    (tree / f"kernel/m.ko{suffix}").write_bytes(pack(b"\x7fELF module"))
    (module,) = load_order(tree, ["m"])
    assert module.read() == b"\x7fELF module"


@pytest.mark.parametrize(
    "break_it",
    [
        lambda tree: (tree / "modules.dep").unlink(),
        lambda tree: (tree / "kernel/virtio_ring.ko").unlink(),
        lambda tree: (tree / "modules.dep").write_text("kernel/virtio_blk.ko.lz4:"),
    ],
)
def test_a_broken_tree_is_one_clear_error(tmp_path: Path, break_it: object) -> None:
    tree = tree_of(tmp_path, VIRTIO | {"kernel/virtio_blk.ko.lz4": []})
    assert callable(break_it)
    break_it(tree)
    with pytest.raises(PermanentError) as caught:
        load_order(tree, ["virtio_blk"])
    assert caught.value.code is ErrorCode.IMAGE_CORRUPT
