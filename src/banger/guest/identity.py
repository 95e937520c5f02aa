"""Who a guest is to be that does not boot but goes on from another's memory.

The same `GuestConfig` that a guest's initrd is made of when it boots.
"""

from __future__ import annotations

from banger.channel.requests import File, HostKey, Identity, Network
from banger.guest.config import GuestConfig, machine_id

INTERFACE = "eth0"


def identity_of(config: GuestConfig, *, entropy: bytes) -> Identity:
    """The request that makes a guest the one of `config`, but for its clock.

    `entropy` is 32 to 512 random bytes nobody else has.
    """
    return Identity(
        entropy=entropy.hex(),
        hostname=config.hostname,
        machine_id=machine_id(config.vm_id),
        dns=config.dns,
        files=(
            File(path="/run/banger/authorized_keys", text=config.authorized_key.rstrip() + "\n"),
        ),
        networks=(
            Network(
                interface=INTERFACE,
                address=config.address,
                prefix=config.prefix,
                gateway=config.gateway,
                mac=config.mac,
            ),
        ),
        ssh_host_key=HostKey(private=config.host_key.decode(), public=config.host_key_public),
    )
