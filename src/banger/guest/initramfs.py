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
from banger.guest.bundle import agent_bytecode, agent_source
from banger.guest.modules import Module, load_order
from banger.host.files import room_for, undo_unless_done, write_atomic

BUSYBOX = Path("/bin/busybox")

# Root cannot be mounted before the first are in; nothing in init waits for the others.
DISK_MODULES = ("virtio_mmio", "virtio_blk", "ext4")
OTHER_MODULES = ("virtio_net", "virtio_console")
# Only where there is such a device (virtio 1.2, section 5), for inserting costs an emulated CPU. No
# udev does it later: entropy, memory balloon, socket.
DEVICE_MODULES = {
    "0x0004": ("virtio_rng",),
    "0x0005": ("virtio_balloon",),
    "0x0013": ("vmw_vsock_virtio_transport",),
}

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
_EXECUTABLES = frozenset({"init", "optional/shutdown"})


def build_initramfs(modules: Path, out: Path, busybox: Path = BUSYBOX) -> None:
    """Write to `out` the part of the initrd that all VMs with one kernel share.

    `modules` is the kernel's module tree, the directory with modules.dep. The same tree, busybox
    and version of banger give the same bytes. Raises PermanentError: tool_missing without a static
    busybox, image_corrupt when the tree lacks a file it names.
    """
    program = _read_busybox(busybox)
    write_atomic(out, cpio.archive(_entries(program, modules)))


def fingerprint(busybox: Path = BUSYBOX) -> str:
    """What identifies everything in the shared part but the modules; 64 hex digits."""
    lists = ((name, *modules) for name, modules in _module_lists())
    digest = hashlib.sha256("\0\0".join(map("\0".join, lists)).encode())
    for entry in (*_guest_files(), cpio.file("bin/busybox", _read_busybox(busybox))):
        digest.update(f"\0{entry.name}\0{entry.mode}\0{len(entry.data)}\0".encode())
        digest.update(entry.data)

    return digest.hexdigest()


def write_initrd(shared: Path, archive: bytes, out: Path) -> None:
    """Write one VM's initrd to `out`, readable by its owner alone: it holds the VM's host key.

    It is not synced to disk, and half of it may be there after a crash: every start of the VM
    writes it again. Raises PermanentError(insufficient_disk).
    """
    out.unlink(missing_ok=True)
    with room_for(out), undo_unless_done(out), shared.open("rb") as source:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as initrd:
            _send(source.fileno(), descriptor, os.fstat(source.fileno()).st_size)
            initrd.write(archive)


def _entries(busybox: bytes, modules: Path) -> Iterator[cpio.Entry]:
    yield from _guest_files()
    for name in ("bin", "dev", "lib", "lib/modules", "newroot", "proc", "run", "sys"):
        yield cpio.directory(name)

    yield cpio.file("bin/busybox", busybox, 0o755)
    seen: list[Module] = []
    for name, wanted in _module_lists():
        new = [module for module in load_order(modules, wanted) if module not in seen]
        seen += new
        yield cpio.file(name, _names(new))
        for module in new:
            yield cpio.file(f"lib/modules/{module.name}.ko", module.read())


def _module_lists() -> Iterator[tuple[str, tuple[str, ...]]]:
    """The files in which init finds what to insert, and when."""
    yield "etc/modules-disk", DISK_MODULES
    yield "etc/modules", OTHER_MODULES
    for device, modules in DEVICE_MODULES.items():
        yield f"etc/modules-device-{device}", modules


def _names(modules: Sequence[Module]) -> bytes:
    return "".join(f"{module.name}.ko\n" for module in modules).encode()


def _guest_files() -> Iterator[cpio.Entry]:
    yield from _walk(resources.files("banger.guest") / "files", "")
    source = agent_source()
    name, bytecode = agent_bytecode(source)
    yield cpio.file("guest/run/banger/agent.py", source.encode())
    yield cpio.directory("guest/run/banger/__pycache__")
    yield cpio.file(f"guest/run/banger/{name}", bytecode)
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


def _send(source: int, out: int, count: int) -> None:
    """Copy within the kernel: a third of the time, and it is most of what a VM's start writes."""
    offset = 0
    while offset < count:
        sent = os.sendfile(out, source, offset, count - offset)
        if sent == 0:
            return

        offset += sent
