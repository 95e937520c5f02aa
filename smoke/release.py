"""What a user gets: wheels of banger and of what it needs, Firecracker, an image that was built."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.images import build_once

from smoke.image import CACHE, REPOSITORY

_HOST_PYTHON = "3.11"
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def wheels() -> Path:
    """A directory with every wheel that `pip install --no-index banger` wants in the host."""
    target = CACHE / f"wheels-{_source_digest()}"
    if target.is_dir():
        return target

    with _scratch() as made:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "wheel", "--no-deps", "-w", made, REPOSITORY], check=True)
        (wheel,) = made.glob("banger-*.whl")
        platforms = [f"--platform={name}" for name in _PLATFORMS]
        subprocess.run(
            [
                *(*pip, "download", "--only-binary", ":all:", "--python-version", _HOST_PYTHON),
                *(*platforms, "--dest", os.fspath(made), os.fspath(wheel)),
            ],
            check=True,
        )
        _keep(made, target)

    return target


def firecracker() -> Path:
    """A directory with firecracker and jailer."""
    done = subprocess.run(
        [REPOSITORY / "scripts" / "fetch-firecracker"], check=True, stdout=subprocess.PIPE
    )
    return Path(done.stdout.decode().strip())


def guest_images() -> Path:
    """An ext4 file system with `images/` and `kernels/`, as `banger image build` made them."""
    source = build_once()
    target = CACHE / f"images-{source.name}.ext4"
    if target.exists():
        return target

    with _scratch() as made:
        disk = made / "images.ext4"
        subprocess.run(
            [
                *("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal"),
                *("-d", os.fspath(source), os.fspath(disk), "4G"),
            ],
            check=True,
        )
        _keep(disk, target)

    return target


def _source_digest() -> str:
    digest = hashlib.sha256((REPOSITORY / "pyproject.toml").read_bytes())
    for path in sorted((REPOSITORY / "src").rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path.relative_to(REPOSITORY)}\0".encode() + path.read_bytes())

    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    CACHE.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="making-", dir=CACHE))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _keep(made: Path, target: Path) -> None:
    # Another run may have been faster; what it made is as good.
    with contextlib.suppress(OSError):
        made.rename(target)
