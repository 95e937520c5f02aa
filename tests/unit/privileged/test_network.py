"""Bridges, taps and the packet filter on a real kernel."""

from __future__ import annotations

import pytest
from tests.unit.privileged.inside import needs_root, play

SCENES = [
    "a_bridge_is_made_once_and_brought_to_its_address",
    "taps_are_the_owners_and_isolated",
    "what_others_made_is_left_alone",
    "taps_are_made_all_or_none",
    "guests_reach_what_their_egress_says",
    "a_guest_speaks_only_for_itself",
    "a_policy_replaces_the_one_before_at_once",
    "dockers_rules_are_joined_and_left",
    "a_dropping_forward_chain_does_not_stop_guests",
    "a_slow_program_is_given_up",
]


@needs_root
@pytest.mark.parametrize("scene", SCENES)
def test_in_a_network_namespace(scene: str) -> None:
    play("scenes_network", scene)
