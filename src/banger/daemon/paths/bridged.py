"""VMs on the host's bridge: addresses, taps, the packet filter's view of who runs, and names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address

import msgspec

from banger.api.models import PortForward
from banger.daemon.paths.published import HeldPorts, check_published, publications
from banger.daemon.store.rows import Handles, VMRow
from banger.daemon.vms.seams import Connections, Endpoint
from banger.hypervisor.base import TapNic
from banger.network.base import GuestNetwork
from banger.network.bridge.egress import Egress, parse_egress
from banger.network.bridge.lan import Lan, Lease, filter_policy, mac_address
from banger.network.bridge.supply import TapSupply
from banger.network.bridge.taps import Found
from banger.network.dns.zone import DOMAIN, Directory
from banger.privileged.base import PrivilegedOps
from banger.privileged.ops import CreateTaps, DeleteTaps

_SSH_PORT = 22


class BridgeTaps:
    """Taps as ports of `bridge`, made and removed by the root helper."""

    def __init__(self, ops: PrivilegedOps, bridge: str) -> None:
        self._ops = ops
        self._bridge = bridge

    async def create(self, names: tuple[str, ...]) -> None:
        await self._ops.call(CreateTaps(bridge=self._bridge, taps=names))

    async def delete(self, names: tuple[str, ...]) -> None:
        await self._ops.call(DeleteTaps(taps=names))


class Filter:
    """The packet filter: always that of all guests that are connected.

    Changes that come while it is being replaced are made together, by the next replacement.
    """

    def __init__(self, ops: PrivilegedOps, lan: Lan, leases: Mapping[str, Lease]) -> None:
        self._ops = ops
        self._lan = lan
        self._leases = dict(leases)
        self._turn = asyncio.Lock()
        self._wanted = 0
        self._applied = 0

    async def apply(self) -> None:
        """Return when what the filter was to be is what it is. Raises what `call` does."""
        self._wanted += 1
        mine = self._wanted
        async with self._turn:
            if self._applied >= mine:
                return

            covered = self._wanted
            await self._ops.call(filter_policy(self._lan, self._leases.values()))
            self._applied = covered

    async def admit(self, vm_id: str, lease: Lease) -> None:
        """Let that VM speak."""
        self._leases[vm_id] = lease
        await self.apply()

    async def expel(self, vm_id: str) -> None:
        """Let that VM speak no more; nothing if it could not."""
        if self._leases.pop(vm_id, None) is not None:
            await self.apply()


class Bridged:
    """`Network` of VMs on the bridge of `lan`, each behind a tap of its own while it runs."""

    def __init__(
        self,
        lan: Lan,
        supply: TapSupply,
        policy: Filter,
        ports: HeldPorts,
        names: Directory,
        resolvers: Callable[[], Collection[str]],
    ) -> None:
        self._lan = lan
        self._supply = supply
        self._policy = policy
        self._ports = ports
        self._names = names
        self._resolvers = resolvers

    @property
    def dns(self) -> str:
        return next(iter(self._resolvers()), str(self._lan.gateway))

    def check(self, wanted: Connections) -> None:
        """Refuse groups to publish at, too many ports, and networks that no guest may reach."""
        check_published(wanted.ports)
        if wanted.allow:
            parse_egress(",".join(wanted.allow))

    def pick_address(self, taken: Collection[str]) -> str:
        return self._lan.pick_address(taken)

    def mac(self, vm_id: str, address: str) -> str:
        del vm_id
        return mac_address(address)

    def lease(
        self, handles: Handles, addresses: Collection[str], ports: Collection[int]
    ) -> Handles:
        del ports
        address, subnet = self.pick_address(addresses), str(self._lan.subnet)
        return msgspec.structs.replace(handles, address=address, subnet=subnet)

    def guest(self, row: VMRow) -> GuestNetwork:
        return self._lan.guest(row.handles.address, egress_of(row), self._resolvers())

    def nic(self, row: VMRow) -> TapNic:
        return TapNic(mac=row.handles.mac, tap=row.handles.tap)

    def ssh(self, row: VMRow) -> Endpoint:
        return Endpoint(row.handles.address, _SSH_PORT)

    def hostname(self, row: VMRow) -> str:
        return f"{row.name}.{DOMAIN}"

    async def acquire(self, row: VMRow) -> str:
        """A tap for the VM; see `TapSupply.acquire`."""
        return await self._supply.acquire(row.id)

    async def release(self, tap: str) -> None:
        """Take a tap back; see `TapSupply.release`."""
        await self._supply.release(tap)

    def hold_ports(self, row: VMRow) -> None:
        """Keep the VM's host ports from all others. Raises CallerError(port_taken)."""
        self._ports.hold(row.id, row.spec.ports)

    async def admit(self, row: VMRow) -> None:
        """Let the VM speak from its tap, and be reached at its ports, which are held."""
        await self._policy.admit(row.id, lease_of(row, row.spec.ports))

    async def disconnect(self, row: VMRow) -> None:
        """Take `admit` and `hold_ports` back, also failed ones; nothing if they never were."""
        await self._policy.expel(row.id)
        # Not before: no policy is accepted in which a port is published that is not held.
        self._ports.release(row.id)

    def make_known(self, row: VMRow) -> None:
        """Have the VM found by its name."""
        self._names.add(row.name, IPv4Address(row.handles.address))

    def forget(self, row: VMRow) -> None:
        """Take `make_known` back; nothing if it was not known."""
        if self._names.address_of(row.name) == IPv4Address(row.handles.address):
            self._names.remove(row.name)


def egress_of(row: VMRow) -> Egress:
    """What the VM may reach."""
    if row.spec.allow:
        return parse_egress(",".join(row.spec.allow))

    return Egress("nat" if row.spec.nat else "none")


def lease_of(row: VMRow, published: Sequence[PortForward]) -> Lease:
    """The VM as the packet filter sees it, with these ports published. It has a tap."""
    return Lease(
        tap=row.handles.tap,
        address=row.handles.address,
        egress=egress_of(row),
        published=publications(published),
    )


def existing_taps(found: Iterable[Found], owners: Collection[str]) -> list[Found]:
    """`found`, and those that VMs are said to have but are gone: no other VM is to get the name."""
    known = {tap.name: tap for tap in found}
    gone = [Found(name, pristine=False) for name in owners if name not in known]
    return [*known.values(), *gone]
