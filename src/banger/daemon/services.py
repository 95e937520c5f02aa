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
    BuildImage,
    CreateVM,
    DaemonStatus,
    DoctorReport,
    Image,
    Kernel,
    KillVM,
    Operation,
    SSHEndpoint,
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

    async def delete(self, ref: str) -> Operation: ...

    async def kill(self, ref: str, request: KillVM) -> Operation: ...

    async def ssh(self, ref: str) -> SSHEndpoint:
        """Where the sshd of a running VM is. Raises CallerError(vm_not_running)."""

    async def stats(self, ref: str) -> VMStats: ...

    async def console_log(self, ref: str) -> Path:
        """The file with what the guest's console printed; there is none before the first start."""


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
    def images(self) -> ImageService: ...

    @property
    def operations(self) -> Operations: ...

    async def status(self) -> DaemonStatus: ...

    async def doctor(self) -> DoctorReport: ...

    async def close(self) -> None:
        """Interrupt what is under way and let go of everything; VMs run on."""
