"""The embedded path: QEMU, its user-mode network, qcow2. Needs no privileges."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from banger.api.errors import CallerError, ErrorCode
from banger.channel.aio import GuestAgent
from banger.channel.serial import SerialChannel
from banger.daemon.paths.base import Seams
from banger.daemon.paths.layered import Layered
from banger.daemon.store.rows import Handles, VMRow
from banger.daemon.vms.leases import SSH_HOST
from banger.daemon.vms.machine import Machine
from banger.daemon.vms.seams import Connections, Endpoint
from banger.daemon.vms.start import Initrd, Launch, Ports, RunDirectory
from banger.daemon.vms.steps import Step
from banger.host.config import Config
from banger.hypervisor.base import Forward, UserNic
from banger.hypervisor.qemu.driver import Qemu
from banger.network.base import GuestNetwork
from banger.network.ports import pick_port
from banger.network.usermode import UserNetwork, mac_address
from banger.storage.qcow2 import Qcow2

_SSH_PORT = 22

RUN_STEPS: tuple[Step[Machine], ...] = (RunDirectory(), Ports(), Initrd(), Launch())
SEED_STEPS: tuple[Step[Machine], ...] = (RunDirectory(), Initrd())


def open_embedded(config: Config) -> Seams:
    """The seams of a daemon that anybody may run."""
    disks = Qcow2()
    return Seams(
        hypervisor=Qemu(config.hypervisor.qemu_binary, config.hypervisor.accelerator),
        agent=lambda run_dir: GuestAgent(SerialChannel(run_dir)),
        network=Alone(UserNetwork(config.network.subnet), config.network.ssh_ports),
        disks=disks,
        moments=Layered(disks),
        run_steps=RUN_STEPS,
        seed_steps=SEED_STEPS,
        name_steps=(),
    )


class Alone:
    """`Network` of VMs that each have one of their own; host ports lead into it."""

    def __init__(self, network: UserNetwork, ssh_ports: range) -> None:
        self._network = network
        self._ssh_ports = ssh_ports

    @property
    def dns(self) -> str:
        return self._network.dns

    def check(self, wanted: Connections) -> None:
        """Refuse what takes a network that the host has a part in."""
        if wanted.allow:
            raise _unsupported("without an installation a VM reaches everything (--nat) or nothing")

        if wanted.autostart:
            raise _unsupported("without an installation nothing starts a VM when the host boots")

        if wanted.disk_rate or wanted.net_rate:
            raise _unsupported("without an installation nothing bounds what a VM moves")

    def pick_address(self, taken: Collection[str]) -> str:
        return self._network.pick_address(taken)

    def mac(self, vm_id: str, address: str) -> str:
        del address
        return mac_address(vm_id)

    def lease(
        self, handles: Handles, addresses: Collection[str], ports: Collection[int]
    ) -> Handles:
        return msgspec.structs.replace(
            handles,
            address=self.pick_address(addresses),
            ssh_port=pick_port(self._ssh_ports, ports),
        )

    def guest(self, row: VMRow) -> GuestNetwork:
        return self._network.guest(row.handles.address, row.handles.mac, nat=row.spec.nat)

    def nic(self, row: VMRow) -> UserNic:
        return UserNic(
            mac=row.handles.mac,
            cidr=self._network.cidr,
            gateway=self._network.gateway,
            dns=self._network.dns,
            address=row.handles.address,
            egress=row.spec.nat,
            forwards=_forwards(row),
        )

    def ssh(self, row: VMRow) -> Endpoint:
        return Endpoint(SSH_HOST, row.handles.ssh_port)

    def hostname(self, row: VMRow) -> None:
        del row


def _forwards(row: VMRow) -> tuple[Forward, ...]:
    ssh = Forward(host_ip=SSH_HOST, host_port=row.handles.ssh_port, guest_port=_SSH_PORT)
    published = (
        Forward(
            host_ip=port.host_ip,
            host_port=port.host_port,
            guest_port=port.guest_port,
            protocol=port.protocol,
        )
        for port in row.spec.ports
    )
    return (ssh, *published)


def _unsupported(message: str) -> CallerError:
    return CallerError(
        ErrorCode.UNSUPPORTED,
        message,
        hint="an installed host can do that: sudo banger system install",
    )
