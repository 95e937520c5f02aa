"""The VM commands: each checks its request, then runs as an operation under the VM's lock."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from msgspec import UNSET

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import (
    VM,
    CreateVM,
    KillVM,
    Operation,
    SSHEndpoint,
    UpdateVM,
    VMState,
    VMStats,
)
from banger.api.names import check_name
from banger.daemon.operations import Operations, Progress
from banger.daemon.store.rows import VMRow
from banger.daemon.vms import leases, lifecycle, update
from banger.daemon.vms.creation import Creation
from banger.daemon.vms.machine import Locks, Machine, Site
from banger.daemon.vms.view import disk_bytes, stats_of, vm_of
from banger.daemon.vms.watch import Watch
from banger.host.config import Defaults
from banger.host.process import ProcessRef, reference

Change = Callable[[Machine, Progress], Awaitable[None]]


class VMs:
    """Implements the VM part of the API over the lifecycle."""

    def __init__(
        self, site: Site, operations: Operations, locks: Locks, watch: Watch, defaults: Defaults
    ) -> None:
        self._site = site
        self._operations = operations
        self._locks = locks
        self._watch = watch
        self._creation = Creation(site, locks, watch, defaults)

    async def list(self) -> list[VM]:
        return [vm_of(row) for row in await self._site.store.vms()]

    async def ids(self) -> set[str]:
        return {row.id for row in await self._site.store.vms()}

    async def show(self, ref: str) -> VM:
        row = await self._site.store.find_vm(ref)
        allocated = disk_bytes(Machine(self._site, row))
        return msgspec.structs.replace(vm_of(row), allocated_bytes=allocated)

    async def stats(self, ref: str) -> VMStats:
        return stats_of(Machine(self._site, await self._site.store.find_vm(ref)))

    async def console_log(self, ref: str) -> Path:
        return Machine(self._site, await self._site.store.find_vm(ref)).console_log

    async def ssh(self, ref: str) -> SSHEndpoint:
        """Where the VM's sshd is. Raises CallerError(vm_not_running)."""
        row = _require_running(await self._site.store.find_vm(ref))
        machine = Machine(self._site, row)
        return SSHEndpoint(
            host=leases.SSH_HOST,
            port=row.handles.ssh_port,
            user="root",
            identity_file=str(self._site.client_key.path),
            known_hosts_file=str(machine.known_hosts),
            host_key_alias=row.id,
        )

    async def create(self, request: CreateVM) -> Operation:
        holder = _holder(request.holder_pid)
        if request.name is not None:
            await self._require_free_name(request.name)

        async def body(progress: Progress) -> None:
            await self._creation.run(request, holder, progress)

        return await self._operations.start(
            "vm.create", body, target=None, target_name=request.name
        )

    async def start(self, ref: str) -> Operation:
        return await self._change("vm.start", ref, self._start)

    async def stop(self, ref: str) -> Operation:
        return await self._change("vm.stop", ref, self._stop)

    async def restart(self, ref: str) -> Operation:
        async def change(machine: Machine, progress: Progress) -> None:
            await self._stop(machine, progress)
            await self._start(machine, progress)

        return await self._change("vm.restart", ref, change)

    async def delete(self, ref: str) -> Operation:
        async def change(machine: Machine, progress: Progress) -> None:
            await lifecycle.delete(machine, progress.stage, progress.id)

        return await self._change("vm.delete", ref, change, after=self._watch.forget)

    async def update(self, ref: str, request: UpdateVM) -> Operation:
        """Change the specification of a stopped VM. Raises CallerError(vm_running)."""
        row = await self._site.store.find_vm(ref)
        if request.name is not UNSET and request.name != row.name:
            await self._require_free_name(request.name)

        async def change(machine: Machine, progress: Progress) -> None:
            await update.apply(machine, request, progress.stage)

        return await self._change("vm.set", ref, change)

    async def kill(self, ref: str, request: KillVM) -> Operation:
        """Signal the VMM at once: a hung operation may hold the lock, so it is not waited for."""
        row = await self._site.store.find_vm(ref)
        handle = row.handles.vmm
        if handle is None or not self._site.hypervisor.alive(handle):
            raise _not_running(row)

        async def body(progress: Progress) -> None:
            progress.stage(f"signal {request.signal}")
            number = signal.Signals[f"SIG{request.signal}"]
            await self._site.hypervisor.kill(handle, number)
            if number is signal.SIGKILL:
                await self._settle_killed(row.id, progress)

        return await self._operations.start("vm.kill", body, target=row.id, target_name=row.name)

    async def _change(
        self,
        kind: str,
        ref: str,
        change: Change,
        *,
        after: Callable[[str], None] | None = None,
    ) -> Operation:
        row = await self._site.store.find_vm(ref)

        async def body(progress: Progress) -> None:
            lock = self._locks.of(row.id)
            if lock.locked():
                progress.stage("waiting for an earlier operation on this VM")

            async with lock:
                await change(await self._machine(row), progress)

            if after is not None:
                after(row.id)

        return await self._operations.start(kind, body, target=row.id, target_name=row.name)

    async def _machine(self, row: VMRow) -> Machine:
        # Read again: what was looked up before the lock was taken may have changed since.
        present = await self._site.store.vm(row.id)
        if present is None:
            raise CallerError(ErrorCode.UNKNOWN_VM, f"VM {row.name} was deleted meanwhile")

        return Machine(self._site, present)

    async def _start(self, machine: Machine, progress: Progress) -> None:
        if machine.row.state is VMState.RUNNING:
            return

        await lifecycle.start(machine, progress.stage, progress.id)
        self._watch.running(machine.row)

    async def _stop(self, machine: Machine, progress: Progress) -> None:
        await lifecycle.stop(machine, progress.stage, progress.id)

    async def _settle_killed(self, vm_id: str, progress: Progress) -> None:
        lock = self._locks.of(vm_id)
        if lock.locked():
            # Whoever holds it sees the VMM gone and cleans up itself.
            return

        async with lock:
            row = await self._site.store.vm(vm_id)
            if row is not None and row.state is not VMState.STOPPED:
                machine = Machine(self._site, row)
                await lifecycle.release(machine, progress.stage, reason="killed")

    async def _require_free_name(self, name: str) -> None:
        check_name(name)
        try:
            row = await self._site.store.find_vm(name)
        except CallerError:
            return

        if row.name == name:
            raise CallerError(
                ErrorCode.NAME_TAKEN,
                f"a VM named {name} exists already",
                hint=f"choose another name, or delete it: banger vm delete {name}",
            )


def _holder(pid: int | None) -> ProcessRef | None:
    if pid is None:
        return None

    holder = reference(pid)
    if holder is None:
        raise CallerError(ErrorCode.INVALID_REQUEST, f"holder_pid {pid} is no running process")

    return holder


def _require_running(row: VMRow) -> VMRow:
    if row.state is VMState.RUNNING:
        return row

    raise _not_running(row)


def _not_running(row: VMRow) -> CallerError:
    why = f" ({row.reason})" if row.reason else ""
    return CallerError(
        ErrorCode.VM_NOT_RUNNING,
        f"VM {row.name} is {row.state}{why}",
        hint=f"start it: banger vm start {row.name}",
    )
