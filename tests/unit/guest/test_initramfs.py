"""The shared part of the initrd, and joining it with one VM's."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from banger.api.errors import ErrorCode, PermanentError
from banger.guest import cpio, initramfs
from banger.guest.config import kernel_cmdline
from banger.guest.initramfs import build_initramfs, fingerprint, write_initrd


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    tree = tmp_path / "modules"
    tree.mkdir()
    (tree / "modules.dep").write_text(
        "virtio_blk.ko: virtio.ko\nvirtio.ko:\nvirtio_net.ko: virtio.ko\n"
        "vmw_vsock_virtio_transport.ko: vsock.ko virtio.ko\nvsock.ko:\n"
    )
    (tree / "virtio_blk.ko").write_bytes(b"blk")
    (tree / "virtio.ko").write_bytes(b"virtio")
    (tree / "virtio_net.ko").write_bytes(b"net")
    (tree / "vsock.ko").write_bytes(b"vsock")
    (tree / "vmw_vsock_virtio_transport.ko").write_bytes(b"transport")
    return tree


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    program = tmp_path / "busybox"
    program.write_bytes(b"\x7fELF static")
    return program


def unpacked(initrd: Path, folder: Path) -> Path:
    folder.mkdir()
    command = ["cpio", "--extract", "--quiet", "--make-directories"]
    subprocess.run(command, input=initrd.read_bytes(), cwd=folder, check=True)
    return folder


def test_it_holds_init_busybox_and_the_modules_in_order(
    tmp_path: Path, modules: Path, busybox: Path
) -> None:
    build_initramfs(modules, tmp_path / "out", busybox)
    root = unpacked(tmp_path / "out", tmp_path / "root")
    assert stat.S_IMODE((root / "init").stat().st_mode) == 0o755
    assert (root / "bin/busybox").read_bytes() == busybox.read_bytes()
    assert (root / "etc/modules-disk").read_text() == "virtio.ko\nvirtio_blk.ko\n"
    assert (root / "etc/modules").read_text() == "virtio_net.ko\n"
    socket_modules = (root / "etc/modules-device-0x0013").read_text()
    assert socket_modules == "vsock.ko\nvmw_vsock_virtio_transport.ko\n"
    assert (root / "lib/modules/virtio_blk.ko").read_bytes() == b"blk"


def test_systemd_starts_with_a_target_that_is_there_and_wants_what_is(
    tmp_path: Path, modules: Path, busybox: Path
) -> None:
    build_initramfs(modules, tmp_path / "out", busybox)
    units = unpacked(tmp_path / "out", tmp_path / "root") / "guest/run/systemd/system"
    (target,) = re.findall(r"systemd\.unit=(\S+)", kernel_cmdline(emulated=True))
    (wants,) = re.findall(r"^Wants=(.*)$", (units / target).read_text(), re.MULTILINE)
    assert all((units / unit).is_file() for unit in wants.split())


def test_masks_are_links_to_nowhere(tmp_path: Path, modules: Path, busybox: Path) -> None:
    build_initramfs(modules, tmp_path / "out", busybox)
    systemd = unpacked(tmp_path / "out", tmp_path / "root") / "guest/run/systemd"
    links = {path.readlink() for path in systemd.rglob("*") if path.is_symlink()}
    assert links == {Path("/dev/null")}


def test_the_same_input_is_the_same_file(tmp_path: Path, modules: Path, busybox: Path) -> None:
    copy = shutil.copytree(modules, tmp_path / "elsewhere")
    build_initramfs(modules, tmp_path / "a", busybox)
    build_initramfs(copy, tmp_path / "b", busybox)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_fingerprint_follows_what_goes_in(
    busybox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(busybox)
    assert fingerprint(busybox) == before
    monkeypatch.setattr(initramfs, "DISK_MODULES", ("virtio_blk",))
    other_modules = fingerprint(busybox)
    busybox.write_bytes(b"\x7fELF newer")
    assert len({before, other_modules, fingerprint(busybox)}) == 3


@pytest.mark.parametrize(
    "program", [None, b"#!/bin/sh\n", b"\x7fELF\0/lib64/ld-linux-x86-64.so.2\0"]
)
def test_only_a_static_busybox_will_do(
    tmp_path: Path, modules: Path, busybox: Path, program: bytes | None
) -> None:
    busybox.unlink() if program is None else busybox.write_bytes(program)
    with pytest.raises(PermanentError) as caught:
        build_initramfs(modules, tmp_path / "out", busybox)
    assert caught.value.code is ErrorCode.TOOL_MISSING
    assert not (tmp_path / "out").exists()


def test_a_vms_part_lies_over_the_shared_one(tmp_path: Path) -> None:
    shared, initrd = tmp_path / "shared", tmp_path / "initrd"
    shared.write_bytes(cpio.archive([cpio.file("a", b"shared")]))
    write_initrd(shared, cpio.archive([cpio.file("vm", b"own")]), initrd)
    assert initrd.read_bytes().startswith(shared.read_bytes())
    assert stat.S_IMODE(initrd.stat().st_mode) == 0o600


def test_a_full_disk_leaves_no_half_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, initrd = tmp_path / "shared", tmp_path / "initrd"
    shared.write_bytes(b"new")

    def full(*_args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    with pytest.raises(PermanentError) as refused:
        write_initrd(shared, b"", initrd)

    assert refused.value.code is ErrorCode.INSUFFICIENT_DISK
    assert not initrd.exists()
