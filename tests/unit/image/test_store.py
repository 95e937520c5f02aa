"""Images live under the digest of their content; names point at them; damage does not pass."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.unit.image import samples

from banger.api.errors import BangerError, CallerError, ErrorCode, PermanentError
from banger.api.models import Image
from banger.image.store import ImageStore


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(samples.paths_below(tmp_path))


def publish(store: ImageStore, name: str = "debian", content: bytes = b"root") -> Image:
    def describe(image_id: str) -> Image:
        return Image(
            id=image_id, name=name, kernel="k", created_at=time.time(),
            root_size=2**20, work_size=2**20, allocated_bytes=1,
        )  # fmt: skip

    with store.staging() as staged:
        (staged / "rootfs.ext4").write_bytes(content)
        (staged / "work.ext4").write_bytes(b"seed")
        os.truncate(staged / "rootfs.ext4", 2**20)
        return store.publish(staged, name, describe)


def damage(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"r00t" + path.read_bytes()[4:])


def code_of(error: pytest.ExceptionInfo[BangerError]) -> ErrorCode:
    return error.value.code


def test_what_was_published_is_found_by_name_and_id(store: ImageStore) -> None:
    image = publish(store)

    files = store.get("debian")

    assert store.list() == [image]
    assert files.image == store.by_id(image.id).image == image
    assert files.rootfs.read_bytes().startswith(b"root")
    assert files.work_seed.read_bytes() == b"seed"


def test_published_files_are_read_only_and_nothing_else_is_left(store: ImageStore) -> None:
    files = store.by_id(publish(store).id)

    assert stat.S_IMODE(files.rootfs.stat().st_mode) == 0o444
    assert {entry.name for entry in store.root.iterdir()} == {files.image.id, "names", ".lock"}


def test_the_same_content_is_the_same_image(store: ImageStore) -> None:
    assert publish(store, "one").id == publish(store, "two").id
    assert [image.name for image in store.list()] == ["one", "two"]


def test_a_rebuilt_name_moves_and_the_old_image_stays_until_pruned(store: ImageStore) -> None:
    old, new = publish(store, content=b"old"), publish(store, content=b"new")

    assert store.get("debian").image.id == new.id
    assert store.unreferenced(set()) == [old.id]
    assert store.prune({old.id}) == []
    assert store.by_id(old.id).rootfs.exists()

    assert store.prune(set()) == [old.id]
    with pytest.raises(CallerError) as caught:
        store.by_id(old.id)
    assert code_of(caught) is ErrorCode.UNKNOWN_IMAGE


def test_a_deleted_image_is_gone_once_pruned(store: ImageStore) -> None:
    image = publish(store)

    store.delete("debian")

    assert store.list() == []
    assert store.prune(set()) == [image.id]
    assert not (store.root / image.id).exists()


@pytest.mark.parametrize("name", ["nothing", "../names", "", ".lock", "names"])
def test_an_unknown_image_comes_with_a_hint(store: ImageStore, name: str) -> None:
    publish(store)

    for use in (store.get, store.by_id, store.delete):
        with pytest.raises(CallerError) as caught:
            use(name)
        assert code_of(caught) is ErrorCode.UNKNOWN_IMAGE
        assert "banger image build" in (caught.value.hint or "")


def test_a_store_that_does_not_exist_yet_is_empty(store: ImageStore) -> None:
    assert store.list() == []
    assert store.unreferenced(set()) == []
    store.sweep()


def test_changed_content_is_refused(store: ImageStore) -> None:
    image = publish(store)
    damage(store.root / image.id / "rootfs.ext4")

    with pytest.raises(PermanentError) as caught:
        store.get("debian")

    assert code_of(caught) is ErrorCode.IMAGE_CORRUPT
    assert "rootfs.ext4" in caught.value.message


def test_a_missing_file_is_refused(store: ImageStore) -> None:
    image = publish(store)
    (store.root / image.id / "work.ext4").unlink()

    with pytest.raises(PermanentError) as caught:
        store.get("debian")

    assert code_of(caught) is ErrorCode.IMAGE_CORRUPT


@pytest.mark.parametrize("manifest", ["", "{", '{"version": 2, "about": {}, "files": {}}'])
def test_an_unreadable_manifest_hides_one_image_only(store: ImageStore, manifest: str) -> None:
    publish(store, "good", b"good")
    bad = publish(store, "bad", b"bad")
    (store.root / bad.id / "manifest.json").write_text(manifest)

    assert [image.name for image in store.list()] == ["good"]
    with pytest.raises(PermanentError) as caught:
        store.get("bad")
    assert code_of(caught) is ErrorCode.IMAGE_CORRUPT


def test_publishing_again_mends_a_damaged_image(store: ImageStore) -> None:
    image = publish(store)
    damage(store.root / image.id / "rootfs.ext4")

    assert publish(store).id == image.id

    assert store.get("debian").rootfs.read_bytes().startswith(b"root")


def test_a_copied_state_directory_is_checked_once_and_then_trusted(
    store: ImageStore, tmp_path: Path
) -> None:
    image = publish(store)
    shutil.copytree(tmp_path / "state", tmp_path / "copy" / "state", symlinks=True)
    copy = ImageStore(samples.paths_below(tmp_path / "copy"))
    manifest = copy.root / image.id / "manifest.json"
    before = manifest.read_bytes()

    assert copy.get("debian").image == image

    after = manifest.read_bytes()
    assert after != before
    copy.get("debian")
    assert manifest.read_bytes() == after


def test_a_failure_while_staging_leaves_nothing(store: ImageStore) -> None:
    def fail() -> None:
        with store.staging() as staged:
            (staged / "rootfs.ext4").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert list(store.root.iterdir()) == []


def test_a_full_disk_while_publishing_leaves_what_was_there(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = publish(store)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("banger.image.artifacts.write_atomic", full)
    with pytest.raises(PermanentError) as caught:
        publish(store, content=b"new")

    assert code_of(caught) is ErrorCode.INSUFFICIENT_DISK
    assert store.get("debian").image == image
    assert {entry.name for entry in store.root.iterdir()} == {image.id, "names", ".lock"}


def test_what_a_killed_process_left_is_swept_and_what_a_live_one_holds_is_not(
    store: ImageStore, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from banger.image.claims import claim\n"
        "with claim(Path(sys.argv[1]), '.stage-') as d:\n"
        "    (d / 'file').write_text('x'); print(d, flush=True); sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", program, str(store.root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        left = Path(child.stdout.readline().strip())
        store.sweep()
        assert left.is_dir()
        child.kill()

    store.sweep()
    assert not left.exists()


def test_half_removed_images_are_swept(store: ImageStore) -> None:
    trash = store.root / ".trash-0123456789abcdef-00"
    (trash / "modules").mkdir(parents=True)

    store.sweep()

    assert not trash.exists()


def test_publishing_and_pruning_at_once_never_shows_half_an_image(store: ImageStore) -> None:
    publish(store, "n0", b"0")
    stop = threading.Event()

    def prune() -> None:
        while not stop.is_set():
            store.prune(set())

    pruner = threading.Thread(target=prune)
    pruner.start()
    try:
        for number in range(30):
            publish(store, f"n{number % 3}", str(number).encode())
            for image in store.list():
                store.by_id(image.id)
    finally:
        stop.set()
        pruner.join()
