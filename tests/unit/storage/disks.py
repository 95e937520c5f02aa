"""Small disks: written and read through QEMU, as a guest's are."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from banger.host.runner import run
from banger.storage.layers import disk_format


async def write(disk: Path, *commands: str) -> None:
    """Do what qemu-io(1) `commands` say to `disk`, such as `write -P 7 0 4k`."""
    words = [word for command in commands for word in ("-c", command)]
    await run(["qemu-io", "-f", disk_format(disk), *words, disk])


def content(disk: Path) -> bytes:
    """What a guest reads from `disk`."""
    with tempfile.NamedTemporaryFile() as copy:
        formats = ("-f", disk_format(disk), "-O", "raw")
        subprocess.run(["qemu-img", "convert", *formats, disk, copy.name], check=True)
        return copy.read()


@contextmanager
def open_in_vmm(disk: Path) -> Iterator[None]:
    """Something of QEMU's has `disk` open for writing, and locked as a VMM locks it."""
    command: list[str | Path] = ["qemu-io", "-f", disk_format(disk), disk]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as vmm:
        assert vmm.stdin is not None
        assert vmm.stdout is not None
        vmm.stdin.write(b"length\n")
        vmm.stdin.flush()
        assert vmm.stdout.readline()
        yield
        vmm.stdin.close()


def instead_of(program: str, directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on `program` is a shell script in `directory`; its disk is `$disk`."""
    directory.mkdir()
    # The disk is the last of the paths; a size may follow it.
    found = "for word; do case $word in /*) disk=$word ;; esac; done\n"
    (directory / program).write_text(f"#!/bin/sh\n{found}{script}")
    (directory / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")
