"""A build publishes a whole image or nothing. The packages are made up; mke2fs is the real one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.image import samples

from banger.api.errors import BangerError, ErrorCode
from banger.api.models import Image
from banger.api.sizes import GIB, MIB
from banger.image import build
from banger.image.build import build_image, sweep
from banger.image.kernels import KernelStore
from banger.image.recipe import Recipe
from banger.image.sources import AptSetup
from banger.image.store import ImageStore

RECIPE = Recipe(
    name="tiny",
    suite="bookworm",
    packages=("git",),
    kernel_package="linux-image",
    root_size=2 * GIB,
    work_size=GIB,
)

# What mmdebstrap leaves of a build, with everything in it that no image may keep.
MMDEBSTRAP = r"""#!/bin/sh
set -eu
for last; do previous=${tree-}; tree=$last; done
case $tree in *.sources) tree=$previous ;; esac
echo "Need to get 1 kB of archives." >&2
mkdir -p "$tree" && cd "$tree"
mkdir -p boot dev/pts etc/apt/apt.conf.d etc/apt/sources.list.d etc/default etc/dpkg/dpkg.cfg.d \
    etc/ssh proc root run/x sys tmp/x usr/bin usr/lib/modules/6.1-t usr/sbin var/cache/apt \
    var/cache/debconf var/lib/apt/lists/partial var/lib/dbus var/lib/dpkg var/lib/systemd \
    var/log/apt var/tmp
echo 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"' >etc/os-release
cp "$SAMPLE/vmlinuz" boot/vmlinuz-6.1-t
touch boot/initrd.img-6.1-t initrd.img.old vmlinuz
printf 'virtio_blk.ko:\nsound.ko:\n' >usr/lib/modules/6.1-t/modules.dep
touch usr/lib/modules/6.1-t/virtio_blk.ko usr/lib/modules/6.1-t/sound.ko
for file in etc/hostname etc/resolv.conf etc/machine-id etc/fstab etc/ssh/ssh_host_rsa_key \
    etc/apt/apt.conf.d/98banger-build etc/apt/apt.conf.d/99mmdebstrap etc/apt/auth.conf \
    etc/dpkg/dpkg.cfg.d/99mmdebstrap var/lib/systemd/random-seed var/lib/dbus/machine-id \
    var/lib/apt/lists/m.example_Packages var/cache/apt/pkgcache.bin var/log/apt/term.log \
    run/x/y tmp/x/y; do
    echo "of the build host" >"$file"
done
touch usr/bin/tool usr/bin/su && chmod 4755 usr/bin/su && chmod 0700 root
echo 'alias ll="ls -l"' >root/.bashrc
"""


@dataclass
class Bench:
    """A build's surroundings, with a stand-in for mmdebstrap."""

    root: Path
    images: ImageStore
    kernels: KernelStore
    cache: Path
    stages: list[str]

    def mmdebstrap(self, extra: str = "", *, first: str = "") -> None:
        tool = self.root / "bin" / "mmdebstrap"
        tool.write_text(MMDEBSTRAP.replace("set -eu", f"set -eu\n{first}", 1) + extra)
        tool.chmod(0o755)

    async def build(self, recipe: Recipe = RECIPE) -> Image:
        return await build_image(recipe, self.images, self.kernels, self.cache, self.report)

    def report(self, stage: str, detail: str | None) -> None:
        if self.stages[-1:] != [stage]:
            self.stages.append(stage)

    def leftovers(self) -> list[str]:
        """Everything below the state and cache directories that belongs to no published thing."""
        published = {image.id for image in self.images.list()} | self.kernels.ids()
        folders = (self.images.root, self.kernels.root, self.cache / "builds")
        entries = {entry.name for folder in folders for entry in folder.glob("*")}
        return sorted(entries - published - {"names", ".lock"})


async def no_sources(suite: str) -> AptSetup:
    return AptSetup(sources="", mirror="", configuration="", auth="")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    paths = samples.paths_below(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "vmlinuz").write_bytes(samples.bzimage(samples.PACKED))
    monkeypatch.setattr(build, "_PATH", f"{tmp_path / 'bin'}:{build._PATH}")
    monkeypatch.setattr(build, "_PASSED_ON", ("SAMPLE",))
    monkeypatch.setattr(build, "ROOM_ON_DISK", MIB)
    monkeypatch.setattr(build, "host_setup", no_sources)
    monkeypatch.setenv("SAMPLE", str(tmp_path))
    stand = Bench(tmp_path, ImageStore(paths), KernelStore(paths), paths.cache, [])
    stand.mmdebstrap()
    return stand


def in_fs(image: Path, request: str) -> str:
    """What debugfs(8) answers."""
    return output_of("/sbin/debugfs", "-R", request, str(image))


def output_of(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, check=True, text=True).stdout


def names(image: Path, folder: str) -> set[str]:
    entries = (line.split("/") for line in in_fs(image, f"ls -p {folder}").splitlines())
    return {entry[5] for entry in entries if len(entry) > 5} - {".", "..", "lost+found"}


def processes_with(word: str) -> list[str]:
    """The command lines of all processes that name `word`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_text(errors="replace"))

    return [line for line in lines if word in line]


def code_of(caught: pytest.ExceptionInfo[BangerError]) -> ErrorCode:
    return caught.value.code


async def test_a_build_ends_with_an_image_its_kernel_and_nothing_else(bench: Bench) -> None:
    image = await bench.build()

    assert (image.name, image.root_size, image.work_size) == ("tiny", 2 * GIB, GIB)
    assert image.distribution == "Debian GNU/Linux 12 (bookworm)"
    assert bench.images.get("tiny").image == image
    assert bench.leftovers() == []
    kernel = bench.kernels.get(image.kernel)
    assert kernel.kernel.release == "6.1-t"
    assert kernel.vmlinux.read_bytes() == samples.KERNEL
    assert [path.name for path in kernel.modules.iterdir()].count("virtio_blk.ko") == 1
    assert not (kernel.modules / "sound.ko").exists()
    assert bench.stages == [
        "resolve packages",
        "download and unpack",
        "write root filesystem",
        "extract kernel",
        "publish",
    ]


async def test_the_file_systems_are_sound_sparse_and_of_full_size(bench: Bench) -> None:
    files = bench.images.by_id((await bench.build()).id)

    for path, label, size, mode in (
        (files.rootfs, "banger-root", 2 * GIB, "0755"),
        (files.work_seed, "banger-work", GIB, "0700"),
    ):
        assert "banger" in output_of("/sbin/e2fsck", "-fn", str(path))
        assert path.stat().st_size == size
        assert path.stat().st_blocks * 512 < 8 * MIB
        header = in_fs(path, "stats -h")
        assert f"volume name:   {label}" in header
        assert "Reserved block count:     0" in header
        assert f"Mode:  {mode}" in in_fs(path, "stat /")

    assert names(files.work_seed, "/") == names(files.rootfs, "/root") == {".bashrc"}


async def test_files_are_roots_and_keep_their_modes_whoever_builds(bench: Bench) -> None:
    rootfs = bench.images.by_id((await bench.build()).id).rootfs

    su = in_fs(rootfs, "stat /usr/bin/su")
    assert "Mode:  04755" in su
    assert "User:     0   Group:     0" in su


async def test_nothing_of_the_build_host_or_of_one_machine_is_in_the_image(bench: Bench) -> None:
    rootfs = bench.images.by_id((await bench.build()).id).rootfs

    assert names(rootfs, "/etc/ssh") == set()
    assert not {"hostname", "resolv.conf", "fstab"} & names(rootfs, "/etc")
    assert in_fs(rootfs, "cat /etc/machine-id") == ""
    assert in_fs(rootfs, "cat /etc/default/locale") == "LANG=C.UTF-8\n"
    assert names(rootfs, "/etc/apt") == {"apt.conf.d", "sources.list.d"}
    assert names(rootfs, "/etc/apt/apt.conf.d") <= {"90mirror"}
    for empty in (
        "/dev", "/run", "/tmp", "/boot", "/etc/dpkg/dpkg.cfg.d", "/var/lib/apt/lists/partial",
        "/var/cache/apt", "/var/log/apt", "/var/lib/systemd", "/var/lib/dbus",
    ):  # fmt: skip
        assert names(rootfs, empty) == set(), empty

    assert names(rootfs, "/var/lib/apt/lists") == {"partial"}
    assert not {"vmlinuz", "initrd.img.old"} & names(rootfs, "/")
    assert names(rootfs, "/usr/lib/modules/6.1-t") == {"modules.dep", "sound.ko", "virtio_blk.ko"}


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("echo 'E: Unable to locate package gti' >&2; exit 100", ErrorCode.IMAGE_BUILD_FAILED),
        ("rm boot/vmlinuz-6.1-t", ErrorCode.IMAGE_BUILD_FAILED),
        ("touch boot/vmlinuz-6.2", ErrorCode.IMAGE_BUILD_FAILED),
        ("rm -r usr/lib/modules/6.1-t", ErrorCode.IMAGE_BUILD_FAILED),
        ("rm usr/lib/modules/6.1-t/modules.dep", ErrorCode.IMAGE_CORRUPT),
        ("echo broken >boot/vmlinuz-6.1-t", ErrorCode.IMAGE_CORRUPT),
        ("echo 'tar: No space left on device' >&2; exit 2", ErrorCode.INSUFFICIENT_DISK),
    ],
)
async def test_a_failed_build_leaves_what_was_there(
    bench: Bench, script: str, code: ErrorCode
) -> None:
    before = await bench.build()
    kernels = bench.kernels.ids()
    bench.mmdebstrap(script)

    with pytest.raises(BangerError) as caught:
        await bench.build()

    assert code_of(caught) is code
    assert bench.images.get("tiny").image == before
    assert bench.kernels.ids() == kernels
    assert bench.leftovers() == []


async def test_a_kernel_whose_image_cannot_be_published_goes_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Image:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.images, "publish", fail)

    with pytest.raises(BangerError) as caught:
        await bench.build()

    assert code_of(caught) is ErrorCode.INSUFFICIENT_DISK
    assert bench.kernels.ids() == set()
    assert bench.leftovers() == []


async def test_a_tree_too_large_for_memory_goes_to_the_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_memory_to_use", lambda: MIB)
    bench.mmdebstrap("head -c 2M /dev/zero >usr/bin/large")

    image = await bench.build()

    assert "Size: 2097152" in in_fs(bench.images.by_id(image.id).rootfs, "stat /usr/bin/large")


async def test_a_cancelled_build_stops_at_once_and_leaves_nothing(bench: Bench) -> None:
    bench.mmdebstrap(first=f"echo 'banger: working' >&2; sleep 600; : {bench.root}")
    working = asyncio.Event()

    def report(stage: str, _: str | None) -> None:
        if stage == "working":
            working.set()

    task = asyncio.create_task(
        build_image(RECIPE, bench.images, bench.kernels, bench.cache, report)
    )
    await working.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert bench.leftovers() == []
    assert processes_with(str(bench.cache)) == []


async def test_two_builds_of_one_name_both_end_well(bench: Bench) -> None:
    one, two = await asyncio.gather(bench.build(), bench.build())

    assert bench.images.get("tiny").image.id in {one.id, two.id}
    bench.images.prune(set())
    assert bench.leftovers() == []


async def test_too_little_room_is_noticed_before_anything_is_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "ROOM_ON_DISK", 2**60)

    with pytest.raises(BangerError) as caught:
        await bench.build()

    assert code_of(caught) is ErrorCode.INSUFFICIENT_DISK
    assert bench.leftovers() == []


async def test_what_a_killed_build_left_is_swept(bench: Bench) -> None:
    left = [
        bench.cache / "builds" / "build-000000000000",
        bench.images.root / ".stage-000000000000",
        bench.kernels.root / ".stage-000000000000",
    ]
    for directory in left:
        (directory / "tree" / "etc").mkdir(parents=True)
        (directory / "tree").chmod(0o500)

    await sweep(bench.images, bench.kernels, bench.cache)

    assert bench.leftovers() == []


def test_memory_is_used_only_when_there_is_plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "MEMORY_FOR_TREE", 2**60)
    assert build._memory_to_use() is None

    monkeypatch.setattr(build, "MEMORY_FOR_TREE", 1)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < (build._memory_to_use() or 0) <= total // 2
