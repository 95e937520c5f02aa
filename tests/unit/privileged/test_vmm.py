"""Launching through the jailer, with the real programs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.unit.privileged.inside import needs_root, play

SCENES = [
    "a_vmm_is_jailed_as_the_owner_and_leaves_nothing",
    "a_launch_that_fails_takes_itself_back",
    "a_few_capabilities_are_enough",
    "a_helper_killed_in_a_launch_leaves_nothing_that_is_not_found",
]


@pytest.fixture
def binaries() -> str:
    """The directory with firecracker and jailer: $BANGER_FIRECRACKER_DIR, or where they are."""
    place = os.environ.get("BANGER_FIRECRACKER_DIR") or str(
        Path(shutil.which("firecracker") or "/nowhere/firecracker").parent
    )
    if not (Path(place, "firecracker").exists() and Path(place, "jailer").exists()):
        pytest.skip("needs firecracker and jailer: set BANGER_FIRECRACKER_DIR")

    return place


@needs_root
@pytest.mark.parametrize("scene", SCENES)
def test_with_real_firecracker(scene: str, binaries: str) -> None:
    play("scenes_vmm", scene, binaries)
