"""What a host path gives to those who make and run VMs, beside hypervisor and disks."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol

import msgspec

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import PortForward, VMSpec
from banger.daemon.store.rows import Handles, VMRow
from banger.hypervisor.base import TapNic, UserNic
from banger.network.base import GuestNetwork


class Endpoint(NamedTuple):
    """Where on the network something listens."""

    host: str
    port: int


class Connections(Protocol):
    """What a VM wants of this host's paths in and out: of a request as of a specification."""

    @property
    def nat(self) -> bool: ...

    @property
    def allow(self) -> tuple[str, ...]: ...

    @property
    def ports(self) -> tuple[PortForward, ...]: ...

    @property
    def autostart(self) -> bool: ...

    @property
    def disk_rate(self) -> int: ...

    @property
    def net_rate(self) -> int: ...


class Network(Protocol):
    """How VMs are connected on this host. What one of them holds is in its row's handles."""

    @property
    def dns(self) -> str:
        """A DNS server that a guest with egress may be told of."""

    def check(self, wanted: Connections) -> None:
        """Raise CallerError (unsupported, invalid_request) for what this host cannot connect so."""

    def pick_address(self, taken: Collection[str]) -> str:
        """An address for a guest that is not in `taken`. Raises PermanentError."""

    def mac(self, vm_id: str, address: str) -> str:
        """The MAC address of that VM."""

    def lease(
        self, handles: Handles, addresses: Collection[str], ports: Collection[int]
    ) -> Handles:
        """`handles` with an address, and a port if sshd needs one of the host's, that are free.

        `addresses` and `ports` are taken. Raises PermanentError(network_exhausted).
        """

    def guest(self, row: VMRow) -> GuestNetwork:
        """What its guest is told."""

    def nic(self, row: VMRow) -> UserNic | TapNic:
        """What its VMM is told."""

    def ssh(self, row: VMRow) -> Endpoint:
        """Where its sshd is, once it runs."""

    def hostname(self, row: VMRow) -> str | None:
        """The name under which the host finds it while it runs, if there is one."""


def reach(spec: VMSpec, nat: bool | None, allow: tuple[str, ...] | None) -> VMSpec:
    """`spec` with another egress, of which None leaves things as they are.

    Raises CallerError(invalid_request) for two at once.
    """
    require_one_egress(nat=bool(nat), allow=allow or ())
    if nat is not None:
        spec = msgspec.structs.replace(spec, nat=nat, allow=())

    if allow is not None:
        spec = msgspec.structs.replace(spec, nat=spec.nat and not allow, allow=allow)

    return spec


def require_one_egress(*, nat: bool, allow: tuple[str, ...]) -> None:
    """Raise CallerError(invalid_request) when both are wanted."""
    if nat and allow:
        raise CallerError(
            ErrorCode.INVALID_REQUEST,
            "a VM reaches everything or the networks that are allowed, not both",
            hint="give --nat, or --allow once for each network",
        )
