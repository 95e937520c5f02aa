"""The initial RAM file system: a shared part for each kernel, and one small archive for each VM.

The kernel unpacks archives that are joined end to end one over the other, so a VM's initrd is the
shared part (busybox, modules, init, units) followed by `config.vm_archive`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from banger.api.errors import ErrorCode, PermanentError
from banger.guest import cpio
from banger.guest.modules import Module, load_order

BUSYBOX = Path("/bin/busybox")

# Root cannot be mounted before the first are in; nothing in init waits for the others.
DISK_MODULES = ("virtio_mmio", "virtio_blk", "ext4")
OTHER_MODULES = ("virtio_net", "virtio_console")

_MASKED = (
    "system/getty@tty1.service",
    *(
        f"system-generators/systemd-{name}-generator"
        for name in (
            "cryptsetup",
            "debug",
            "fstab",
            "getty",
            "gpt-auto",
            "hibernate-resume",
            "integritysetup",
            "rc-local",
            "run",
            "system-update",
            "sysv",
            "veritysetup",
        )
    ),
)

_ELF = b"\x7fELF"
_EXECUTABLES = frozenset({"init"})


def build_initramfs(modules: Path, out: Path, busybox: Path = BUSYBOX) -> None:
    """Write to `out` the part of the initrd that all VMs with one kernel share.

    `modules` is the kernel's module tree, the directory with modules.dep. The same tree, busybox
    and version of banger give the same bytes. Raises PermanentError: tool_missing without a static
    busybox, image_corrupt when the tree lacks a file it names.
    """
    program = _read_busybox(busybox)
    _write(out, cpio.archive(_entries(program, modules)), durable=True)


def fingerprint(busybox: Path = BUSYBOX) -> str:
    """What identifies everything in the shared part but the modules; 64 hex digits."""
    digest = hashlib.sha256("\0".join([*DISK_MODULES, "", *OTHER_MODULES]).encode())
    for entry in (*_guest_files(), cpio.file("bin/busybox", _read_busybox(busybox))):
        digest.update(f"\0{entry.name}\0{entry.mode}\0{len(entry.data)}\0".encode())
        digest.update(entry.data)

    return digest.hexdigest()


def write_initrd(shared: Path, archive: bytes, out: Path) -> None:
    """Write one VM's initrd to `out`, readable by its owner alone: it holds the VM's host key.

    It is atomic but not synced to disk: every start of the VM writes it again.
    """
    _write(out, shared.read_bytes() + archive, durable=False)


def _entries(busybox: bytes, modules: Path) -> Iterator[cpio.Entry]:
    yield from _guest_files()
    for name in ("bin", "dev", "lib", "lib/modules", "newroot", "proc", "run", "sys"):
        yield cpio.directory(name)

    yield cpio.file("bin/busybox", busybox, 0o755)
    disk = load_order(modules, DISK_MODULES)
    others = [module for module in load_order(modules, OTHER_MODULES) if module not in disk]
    for module in (*disk, *others):
        yield cpio.file(f"lib/modules/{module.name}.ko", module.read())

    yield cpio.file("etc/modules-disk", _names(disk))
    yield cpio.file("etc/modules", _names(others))


def _names(modules: Sequence[Module]) -> bytes:
    return "".join(f"{module.name}.ko\n" for module in modules).encode()


def _guest_files() -> Iterator[cpio.Entry]:
    yield from _walk(resources.files("banger.guest") / "files", "")
    # systemd leaves out what is a link to /dev/null; archives of Python packages hold no links.
    yield cpio.directory("guest/run/systemd/system-generators")
    for path in _MASKED:
        yield cpio.symlink(f"guest/run/systemd/{path}", "/dev/null")


def _walk(folder: Traversable, prefix: str) -> Iterator[cpio.Entry]:
    for item in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = prefix + item.name
        if item.is_dir():
            yield cpio.directory(name)
            yield from _walk(item, f"{name}/")
        else:
            yield cpio.file(name, item.read_bytes(), 0o755 if name in _EXECUTABLES else 0o644)


def _read_busybox(path: Path) -> bytes:
    try:
        program = path.read_bytes()
    except OSError:
        program = b""
    # The interpreter line of a dynamic program names a loader the initramfs does not have.
    if not program.startswith(_ELF) or b"/ld-linux" in program:
        raise PermanentError(
            ErrorCode.TOOL_MISSING,
            f"{path} is not a statically linked busybox",
            hint="install it with: apt install busybox-static",
        )
    return program


def _write(out: Path, data: bytes, *, durable: bool) -> None:
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123
            file.write(data)
            if durable:
                file.flush()
                os.fsync(descriptor)

        temporary.replace(out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
