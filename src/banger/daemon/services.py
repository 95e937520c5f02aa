"""What the API is served from: the contract between the routes and the services behind them.

A VM is meant by its name, its id, or a prefix of its id that no other has. Whatever changes
something answers at once with an operation; errors that can be known by then are raised.
"""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Protocol

from banger.api.models import (
    VM,
    AgentEndpoint,
    BuildImage,
    CreateSnapshot,
    CreateVM,
    DaemonStatus,
    DoctorReport,
    ForkVM,
    Garbage,
    Image,
    Kernel,
    KillVM,
    MakeTemplate,
    Operation,
    PruneTemplates,
    RestoreSnapshot,
    Snapshot,
    SSHEndpoint,
    Template,
    UpdateVM,
    VMStats,
)
from banger.daemon.operations import Operations


class VMService(Protocol):
    """VMs. Every `ref` may raise CallerError(unknown_vm, ambiguous_vm)."""

    async def list(self) -> list[VM]:
        """All VMs, by name."""

    async def show(self, ref: str) -> VM: ...

    async def create(self, request: CreateVM) -> Operation: ...

    async def update(self, ref: str, request: UpdateVM) -> Operation: ...

    async def start(self, ref: str) -> Operation: ...

    async def stop(self, ref: str) -> Operation: ...

    async def restart(self, ref: str) -> Operation: ...

    async def pause(self, ref: str) -> Operation: ...

    async def resume(self, ref: str) -> Operation: ...

    async def reclaim(self, ref: str) -> Operation: ...

    async def suspend(self, ref: str) -> Operation: ...

    async def delete(self, ref: str) -> Operation: ...

    async def kill(self, ref: str, request: KillVM) -> Operation: ...

    async def ssh(self, ref: str) -> SSHEndpoint:
        """Where the sshd of a running VM is. Raises CallerError(vm_not_running)."""

    async def agent(self, ref: str) -> AgentEndpoint:
        """Where the agent of a running VM is. Raises CallerError(vm_not_running)."""

    async def stats(self, ref: str) -> VMStats: ...

    async def console_log(self, ref: str) -> Path:
        """The file with what the guest's console printed; there is none before the first start."""


class SnapshotService(Protocol):
    """What is kept of VMs' moments, and made of them.

    Every `vm` may raise CallerError(unknown_vm, ambiguous_vm). A snapshot is meant by its name or
    its id: CallerError(unknown_snapshot).
    """

    async def list(self, vm: str) -> list[Snapshot]:
        """The snapshots of one VM that have a name, oldest first."""

    async def show(self, vm: str, snapshot: str) -> Snapshot: ...

    async def create(self, vm: str, request: CreateSnapshot) -> Operation: ...

    async def restore(self, vm: str, snapshot: str, request: RestoreSnapshot) -> Operation: ...

    async def delete(self, vm: str, snapshot: str) -> Operation: ...

    async def fork(self, vm: str, request: ForkVM) -> Operation:
        """New VMs that go on from where this one is; the operation's `made` names them."""


class TemplateService(Protocol):
    """Guests that have booted, from which new VMs start. Raises CallerError(unknown_template)."""

    async def list(self) -> list[Template]:
        """All that are ready, the one used last first."""

    async def make(self, request: MakeTemplate) -> Operation:
        """Make the template that such VMs would start from, unless it is there."""

    async def delete(self, key: str) -> Operation: ...

    async def prune(self, request: PruneTemplates) -> Operation: ...


class ImageService(Protocol):
    """Images and kernels. Raises CallerError(unknown_image, unknown_kernel)."""

    async def list(self) -> list[Image]: ...

    async def show(self, name: str) -> Image: ...

    async def build(self, request: BuildImage) -> Operation: ...

    async def delete(self, name: str) -> Operation: ...

    async def kernels(self) -> builtins.list[Kernel]: ...

    async def kernel(self, name: str) -> Kernel: ...


class Services(Protocol):
    """All that the daemon does."""

    @property
    def vms(self) -> VMService: ...

    @property
    def snapshots(self) -> SnapshotService: ...

    @property
    def templates(self) -> TemplateService: ...

    @property
    def images(self) -> ImageService: ...

    @property
    def operations(self) -> Operations: ...

    async def status(self) -> DaemonStatus: ...

    async def doctor(self) -> DoctorReport: ...

    async def stop_guests(self) -> Operation:
        """Stop all VMs at once, as when the host shuts down; until that is done none starts."""

    async def gc(self) -> Garbage:
        """Remove what nothing refers to any more."""

    async def close(self) -> None:
        """Interrupt what is under way and let go of everything; VMs run on."""
