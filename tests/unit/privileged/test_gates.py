"""Whose program, whose process, whose socket: gates that take root to be tested at."""

from __future__ import annotations

import shutil

import pytest
from tests.unit.privileged.inside import needs_root, play

SCENES = [
    "programs_are_roots_alone",
    "whoever_may_write_on_the_way_spoils_a_program",
    "the_owner_is_whom_root_wrote_down",
    "sockets_are_given_to_nobody_but_the_owner",
    "a_vmm_is_found_by_where_it_lives",
    "only_the_vmm_that_is_meant_is_signalled",
    "a_jail_is_removed_without_leaving_it",
]


@needs_root
@pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox-static")
@pytest.mark.parametrize("scene", SCENES)
def test_as_root(scene: str) -> None:
    play("scenes_gates", scene)
