"""The kernel store keeps what an initramfs may need of a kernel's modules, and what that needs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.unit.image import samples

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.api.models import Kernel
from banger.image.kernels import KernelStore, select_modules

MODULES_DEP = """\
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/drivers/char/hw_random/virtio-rng.ko.xz:
kernel/sound/sound.ko: kernel/net/core/failover.ko
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "lib-modules"
    for line in MODULES_DEP.splitlines():
        path = root / line.partition(":")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)

    (root / "modules.dep").write_text(MODULES_DEP)
    return root


def publish(store: KernelStore, content: bytes = b"kernel") -> Kernel:
    def describe(kernel_id: str) -> Kernel:
        return Kernel(
            id=kernel_id, name="6.1-x", release="6.1-x", created_at=time.time(), allocated_bytes=1
        )

    with store.staging() as staged:
        for name in ("vmlinux", "vmlinuz"):
            (staged / name).write_bytes(content)

        (staged / "modules").mkdir()
        (staged / "modules" / "modules.dep").write_text("")
        return store.publish(staged, "6.1-x", describe)


def test_wanted_modules_come_with_what_they_need_and_no_others(tree: Path, tmp_path: Path) -> None:
    select_modules(tree, tmp_path / "modules")

    copied = {path.name for path in (tmp_path / "modules").rglob("*.ko*")}
    assert copied == {"virtio_net.ko", "net_failover.ko", "failover.ko", "virtio-rng.ko.xz"}


def test_the_index_speaks_of_the_copied_modules_as_the_whole_one_did(
    tree: Path, tmp_path: Path
) -> None:
    select_modules(tree, tmp_path / "modules")

    lines = (tmp_path / "modules" / "modules.dep").read_text().splitlines()
    assert lines == sorted(line for line in MODULES_DEP.splitlines() if "sound" not in line)


def test_a_tree_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as caught:
        select_modules(tmp_path / "nothing", tmp_path / "modules")

    assert caught.value.code is ErrorCode.IMAGE_CORRUPT


def test_a_kernel_is_found_by_name_and_by_id(tmp_path: Path) -> None:
    store = KernelStore(samples.paths_below(tmp_path))
    kernel = publish(store)

    for reference in ("6.1-x", kernel.id):
        files = store.get(reference)
        assert files.kernel == kernel
        assert files.vmlinux.read_bytes() == files.vmlinuz.read_bytes() == b"kernel"
        assert (files.modules / "modules.dep").is_file()

    with pytest.raises(CallerError) as caught:
        store.get("6.2-x")
    assert caught.value.code is ErrorCode.UNKNOWN_KERNEL


def test_a_damaged_module_index_is_noticed(tmp_path: Path) -> None:
    store = KernelStore(samples.paths_below(tmp_path))
    index = store.get(publish(store).id).modules / "modules.dep"
    index.chmod(0o644)
    index.write_text("../../evil.ko:\n")

    with pytest.raises(PermanentError) as caught:
        store.get("6.1-x")

    assert caught.value.code is ErrorCode.IMAGE_CORRUPT


def test_pruning_keeps_what_is_used_and_forgets_other_names(tmp_path: Path) -> None:
    store = KernelStore(samples.paths_below(tmp_path))
    old, new = publish(store, b"old"), publish(store, b"new")

    assert store.prune({old.id}) == [new.id]

    assert store.list() == []
    assert store.get(old.id).kernel == old
    assert store.prune(set()) == [old.id]
    assert store.ids() == set()
