"""Real file systems in files, made the way the image build makes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from banger.host.runner import run


class Seed:
    """An ext4 in a file with one directory of files in it, and how to look inside such a disk."""

    def __init__(self, path: Path, contents: dict[str, bytes]) -> None:
        self.path = path
        self.contents = contents

    async def found_on(self, disk: Path) -> dict[str, bytes]:
        """What `disk` holds of the seed's files."""
        return {
            name: (await run(["debugfs", "-R", f"cat /{name}", disk])).stdout
            for name in self.contents
        }


@pytest.fixture
async def seed(tmp_path: Path) -> Seed:
    """64 MiB, of which about 9 MiB are needed."""
    contents = {f"file{number}": os.urandom(5000) for number in range(20)}
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, data in contents.items():
        (tree / name).write_bytes(data)
    path = tmp_path / "seed.ext4"
    path.touch()
    os.truncate(path, 64 << 20)
    await run(["mke2fs", "-q", "-F", "-t", "ext4", "-J", "size=4", "-d", tree, path])
    return Seed(path, contents)
