"""Ports of the host that guests' are published on: the daemon listens there, so nobody else does.

Nothing is ever accepted: the packet filter leads connections past these sockets to the guests. The
root helper publishes only where there is one (`privileged/gates/ports.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from ipaddress import IPv4Address
from socket import socket

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import PortForward
from banger.daemon.vms.leases import taken
from banger.network.ports import hold, obstacle
from banger.privileged.ops import Protocol, Publication

# The helper takes no longer list.
_MOST = 256

log = logging.getLogger(__name__)


class HeldPorts:
    """The sockets, by VM."""

    def __init__(self) -> None:
        self._held: dict[str, list[socket]] = {}

    def hold(self, vm_id: str, ports: Sequence[PortForward]) -> None:
        """Have all of `ports` for that VM, which has none. Raises CallerError(port_taken)."""
        self.release(vm_id)
        for port in ports:
            try:
                self._hold(vm_id, port)
            except (OSError, ValueError) as error:
                self.release(vm_id)
                raise taken(port, obstacle(error)) from None

    def hold_free(self, vm_id: str, ports: Sequence[PortForward]) -> list[PortForward]:
        """Have those of `ports` that nobody took while no daemon ran; which ones."""
        free = []
        for port in ports:
            try:
                self._hold(vm_id, port)
            except (OSError, ValueError) as error:
                log.warning("VM %s: %s", vm_id, taken(port, obstacle(error)))
            else:
                free.append(port)

        return free

    def release(self, vm_id: str) -> None:
        """Let go of that VM's."""
        for held in self._held.pop(vm_id, ()):
            held.close()

    def close(self) -> None:
        for vm_id in list(self._held):
            self.release(vm_id)

    def _hold(self, vm_id: str, port: PortForward) -> None:
        held = hold(port.host_ip, port.host_port, port.protocol)
        self._held.setdefault(vm_id, []).append(held)


def publications(ports: Sequence[PortForward]) -> tuple[Publication, ...]:
    """`ports` as the root helper knows them."""
    return tuple(
        Publication(
            address=port.host_ip,
            port=port.host_port,
            guest_port=port.guest_port,
            protocol=Protocol(port.protocol),
        )
        for port in ports
    )


def check_published(ports: Sequence[PortForward]) -> None:
    """Raise CallerError(invalid_request) for what no host can publish."""
    if len(ports) > _MOST:
        raise CallerError(
            ErrorCode.INVALID_REQUEST, f"a VM publishes at most {_MOST} ports, not {len(ports)}"
        )

    for port in ports:
        if not _of_a_host(port.host_ip):
            raise CallerError(
                ErrorCode.INVALID_REQUEST,
                f"{port.host_ip!r} is no IPv4 address of a host",
                hint="give one of this host's: ip -4 address",
            )


def _of_a_host(text: str) -> bool:
    try:
        address = IPv4Address(text)
    except ValueError:
        return False
    return not (address.is_multicast or address.is_reserved)
