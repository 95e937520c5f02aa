"""Opening the system path: the network, and what an earlier daemon and its VMs have left."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from banger.api.errors import BangerError
from banger.channel.aio import GuestAgent
from banger.channel.vsock import VsockChannel
from banger.daemon.paths.base import Seams
from banger.daemon.paths.bridged import Bridged, BridgeTaps, Filter, existing_taps, lease_of
from banger.daemon.paths.copied import Copied
from banger.daemon.paths.leftovers import remove_leftovers
from banger.daemon.paths.published import HeldPorts
from banger.daemon.paths.steps import BootInitrd, HeardLaunch, Known, RootDevice, Tap
from banger.daemon.store.rows import VMRow
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.start import RunDirectory
from banger.daemon.vms.steps import Step
from banger.host.config import Config
from banger.hypervisor.base import Hypervisor
from banger.network.bridge.lan import Lan
from banger.network.bridge.resolver import routing, upstream_resolvers
from banger.network.bridge.routes import read_routes, settle
from banger.network.bridge.supply import TapSupply, find_taps
from banger.network.bridge.taps import TapPool
from banger.network.dns.server import PORT, DnsServer
from banger.network.dns.zone import Directory, Zone
from banger.privileged.base import PrivilegedOps
from banger.privileged.ops import EnsureBridge, ListOwned
from banger.storage.cow import Cow

BRIDGE = "br-fc"

log = logging.getLogger(__name__)


async def open_seams(
    ops: PrivilegedOps,
    hypervisor: Hypervisor,
    config: Config,
    rows: Sequence[VMRow],
    boot_id: str,
    *,
    dns_port: int = PORT,
) -> Seams:
    """Bring the host in line with `rows`, what the store has, in that boot of the host.

    Raises PermanentError(network_collision), and what `ops` does.
    """
    opening = _Opening(ops, config, rows, _running(rows, hypervisor, boot_id))
    lan = await opening.lan()
    ports = HeldPorts()
    policy = await opening.policy(lan, ports)
    supply = await opening.supply(lan)
    names = Directory()
    names.replace({row.name: IPv4Address(row.handles.address) for row in opening.running})
    server = await _serve_names(ops, lan, names, dns_port)
    network = Bridged(lan, supply, policy, ports, names, upstream_resolvers)

    before: tuple[Step[Machine], ...] = (RunDirectory(), Tap(network))
    known, device = Known(network), RootDevice(ops)

    async def close() -> None:
        await server.close()
        await supply.close()
        ports.close()

    return Seams(
        hypervisor=hypervisor,
        agent=lambda run_dir: GuestAgent(VsockChannel(run_dir)),
        network=network,
        disks=Cow(),
        moments=Copied(ops),
        run_steps=(*before, known, device, BootInitrd(), HeardLaunch(network)),
        seed_steps=(*before, device, BootInitrd()),
        name_steps=(known,),
        close=close,
    )


@dataclass(frozen=True, slots=True)
class _Opening:
    """What is known when the daemon starts; `running` are the VMs whose VMM lives."""

    ops: PrivilegedOps
    config: Config
    rows: Sequence[VMRow]
    running: Sequence[VMRow]

    async def lan(self) -> Lan:
        """The guests' network, and the bridge it is on."""
        wanted, current = self.config.network.subnet, _subnet_in_use(self.rows)
        choice = settle(wanted, current, await read_routes(), BRIDGE)
        if choice.subnet != wanted:
            log.info("guests are on %s, not on network.subnet %s", choice.subnet, wanted)

        for route in choice.shadowed:
            log.warning("of the host's route to %s the guests' network takes a part", route)

        lan = Lan(BRIDGE, choice.subnet)
        prefix = lan.subnet.prefixlen
        await self.ops.call(EnsureBridge(bridge=BRIDGE, address=str(lan.gateway), prefix=prefix))
        return lan

    async def policy(self, lan: Lan, ports: HeldPorts) -> Filter:
        """The packet filter: in force before there is any tap.

        Ports that others have taken meanwhile are not published any more.
        """
        leases = {
            row.id: lease_of(row, ports.hold_free(row.id, row.spec.ports))
            for row in self.running
            if row.handles.tap
        }
        policy = Filter(self.ops, lan, leases)
        await policy.apply()
        return policy

    async def supply(self, lan: Lan) -> TapSupply:
        """Taps: those that VMs have are theirs until they are released."""
        owned = await self.ops.call(ListOwned())
        await remove_leftovers(self.ops, owned, {row.id for row in self.rows})
        owners = {row.handles.tap: row.id for row in self.rows if row.handles.tap}
        pool = TapPool(self.config.network.spare_taps)
        supply = TapSupply(BridgeTaps(self.ops, BRIDGE), pool)
        supply.start(existing_taps(find_taps(owned.taps, BRIDGE), owners), owners)
        return supply


def _running(rows: Sequence[VMRow], hypervisor: Hypervisor, boot_id: str) -> list[VMRow]:
    return [
        row
        for row in rows
        if row.host_boot_id == boot_id and row.handles.vmm and hypervisor.alive(row.handles.vmm)
    ]


def _subnet_in_use(rows: Sequence[VMRow]) -> IPv4Network | None:
    """What VMs have addresses of: it stays as long as there are any."""
    return next((IPv4Network(row.handles.subnet) for row in rows if row.handles.subnet), None)


async def _serve_names(ops: PrivilegedOps, lan: Lan, names: Directory, port: int) -> DnsServer:
    """Answer for `.vm`, and have the host ask; VMs run without both."""
    server = DnsServer(Zone(names, lan.subnet))
    try:
        await ops.call(routing(lan, server.listen(str(lan.gateway), port)))
    except BangerError as error:
        log.warning("the host does not find VMs by name: %s", error)

    return server
