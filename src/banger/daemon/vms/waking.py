"""Telling a guest that goes on who it is and what time it is, and making sure of the time."""

from __future__ import annotations

import logging
import time

import msgspec

from banger.channel.requests import GuestHealth, Identity
from banger.daemon.vms.machine import Agent

log = logging.getLogger(__name__)

# Setting the clock takes a few milliseconds, unless guest or host are busy with something else.
CLOCK_SECONDS = 0.1
TRIES = 5


async def assume(
    agent: Agent, identity: Identity, *, patience: float, timeout: float
) -> GuestHealth:
    """Have a guest become what `identity` says, its clock that of the host to within 0.1 s.

    A request may be long on its way, and the time it carries is old then: what the guest's clock
    says afterwards is compared, and it is set once more where needed. Raises what `ask` does.
    """
    health = await _ask(agent, identity, patience, timeout)
    for _ in range(TRIES):
        if abs(_late(health)) <= CLOCK_SECONDS:
            return health

        health = await _ask(agent, Identity(), patience, timeout)

    log.warning("the clock of guest %s is %.1f s late", health.hostname, _late(health))
    return health


async def _ask(agent: Agent, identity: Identity, patience: float, timeout: float) -> GuestHealth:
    told = msgspec.structs.replace(identity, clock=time.time_ns())
    return await agent.ask(told, GuestHealth, patience=patience, timeout=timeout)


def _late(health: GuestHealth) -> float:
    """Seconds by which the guest's clock is behind this host's, the answer's way included."""
    return (time.time_ns() - health.clock) / 1e9
