"""The helper as a process: whom it answers, what it survives, what it tells the journal."""

from __future__ import annotations

import pytest
from tests.unit.privileged.inside import needs_root, play

SCENES = [
    "the_owner_is_served_and_every_call_is_told_of",
    "another_user_is_turned_away",
    "long_and_slow_requests_are_bounded",
    "clients_that_go_away_do_no_harm",
    "more_connections_than_it_takes_wait",
    "stopping_lets_work_go_on",
    "a_socket_of_systemds_is_taken",
    "killed_workers_are_told_of",
]


@needs_root
@pytest.mark.parametrize("scene", SCENES)
def test_a_live_helper(scene: str) -> None:
    play("scenes_helper", scene)


@needs_root
def test_hundreds_of_random_requests_leave_it_serving() -> None:
    play("scenes_helper", "random_requests_leave_it_serving", "300")


@needs_root
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_random_requests_leave_it_serving() -> None:
    play("scenes_helper", "random_requests_leave_it_serving", "10000")
