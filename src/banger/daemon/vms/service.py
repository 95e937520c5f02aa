"""The VM commands: each checks its request, then runs as an operation under the VM's lock."""

from __future__ import annotations

import asyncio
import builtins
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import (
    VM,
    AgentEndpoint,
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
from banger.daemon.vms import lifecycle, pausing, update
from banger.daemon.vms.holder import holder_of
from banger.daemon.vms.machine import Locks, Machine, Site
from banger.daemon.vms.pausing import not_running, require_running
from banger.daemon.vms.reclaim import reclaim
from banger.daemon.vms.request import Requests
from banger.daemon.vms.seams import require_one_egress
from banger.daemon.vms.suspend import awakening, suspend
from banger.daemon.vms.turns import Change, Turns
from banger.daemon.vms.view import DiskSizes, stats_of, vm_of
from banger.daemon.vms.watch import KILLED, Watch
from banger.host.threads import in_thread

# How long a killed VM is waited for when something else is about to be done with it.
SETTLE_SECONDS = 10.0


class VMs:
    """Implements the VM part of the API over the lifecycle."""

    def __init__(
        self, site: Site, operations: Operations, locks: Locks, watch: Watch, requests: Requests
    ) -> None:
        self._site = site
        self._operations = operations
        self._locks = locks
        self._watch = watch
        self._turns = Turns(site, operations, locks)
        self._requests = requests
        self._sizes = DiskSizes()

    async def list(self) -> list[VM]:
        rows = [row for row in await self._site.store.vms() if not row.standby]
        self._sizes.forget_others(rows)
        return await in_thread(self._with_disks, rows)

    async def ids(self) -> set[str]:
        return {row.id for row in await self._site.store.vms()}

    async def show(self, ref: str) -> VM:
        return self._with_disks([await self._site.store.find_vm(ref)])[0]

    async def stats(self, ref: str) -> VMStats:
        return stats_of(Machine(self._site, await self._site.store.find_vm(ref)))

    async def console_log(self, ref: str) -> Path:
        return Machine(self._site, await self._site.store.find_vm(ref)).console_log

    async def ssh(self, ref: str) -> SSHEndpoint:
        """Where the VM's sshd is. Raises CallerError(vm_not_running)."""
        row = require_running(await self._site.store.find_vm(ref))
        machine, at = Machine(self._site, row), self._site.network.ssh(row)
        return SSHEndpoint(
            host=at.host,
            port=at.port,
            user="root",
            identity_file=str(self._site.client_key.path),
            known_hosts_file=str(machine.known_hosts),
            host_key_alias=row.id,
        )

    async def agent(self, ref: str) -> AgentEndpoint:
        """Where the VM's agent is. Raises CallerError(vm_not_running)."""
        row = require_running(await self._site.store.find_vm(ref))
        return AgentEndpoint(directory=str(Machine(self._site, row).run_dir))

    async def create(self, request: CreateVM) -> Operation:
        holder = holder_of(request.holder_pid)
        require_one_egress(nat=request.nat, allow=request.allow)
        self._site.network.check(request)
        if request.name is not None:
            await self._require_free_name(request.name)

        async def body(progress: Progress) -> None:
            await self._requests.create(request, holder, progress)

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

    async def pause(self, ref: str) -> Operation:
        async def change(machine: Machine, progress: Progress) -> None:
            progress.stage("pause")
            await pausing.pause(machine, progress.id)

        return await self._change("vm.pause", ref, change)

    async def resume(self, ref: str) -> Operation:
        async def change(machine: Machine, progress: Progress) -> None:
            progress.stage("resume")
            await pausing.resume(machine, progress.id)

        return await self._change("vm.resume", ref, change)

    async def reclaim(self, ref: str) -> Operation:
        async def change(machine: Machine, progress: Progress) -> None:
            progress.stage("reclaim")
            await reclaim(machine, progress.detail)

        return await self._change("vm.reclaim", ref, change)

    async def suspend(self, ref: str) -> Operation:
        async def change(machine: Machine, progress: Progress) -> None:
            await suspend(machine, progress.stage, progress.id)

        return await self._change("vm.suspend", ref, change)

    async def delete(self, ref: str) -> Operation:
        async def change(machine: Machine, progress: Progress) -> None:
            await lifecycle.delete(machine, progress.stage, progress.id)

        return await self._change("vm.delete", ref, change, after=self._watch.forget)

    async def update(self, ref: str, request: UpdateVM) -> Operation:
        """Change the specification of a stopped VM. Raises CallerError(vm_running)."""
        row = await self._site.store.find_vm(ref)
        self._site.network.check(update.wanted(row.spec, request))
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
            raise not_running(row)

        async def body(progress: Progress) -> None:
            progress.stage(f"signal {request.signal}")
            number = signal.Signals[f"SIG{request.signal}"]
            if number is signal.SIGKILL:
                self._watch.killed(handle)

            await self._site.hypervisor.kill(handle, number)
            if number is signal.SIGKILL:
                await self._settle_killed(row.id, progress)

        return await self._operations.start("vm.kill", body, target=row.id, target_name=row.name)

    def _with_disks(self, rows: Sequence[VMRow]) -> builtins.list[VM]:
        """Rows as lists show them, each after a look at its disks. Blocks."""
        return [
            msgspec.structs.replace(
                vm_of(row, self._site.network), allocated_bytes=self._sizes.of(row)
            )
            for row in rows
        ]

    async def _change(
        self,
        kind: str,
        ref: str,
        change: Change,
        *,
        after: Callable[[str], None] | None = None,
    ) -> Operation:
        row = await self._site.store.find_vm(ref)
        return await self._turns.change(kind, row, change, after=after)

    async def _start(self, machine: Machine, progress: Progress) -> None:
        if machine.row.state is VMState.RUNNING:
            return

        if machine.row.state is VMState.PAUSED:
            await pausing.resume(machine, progress.id)
            return

        machine.moment = await awakening(machine)
        try:
            await lifecycle.start(machine, progress.stage, progress.id)
        finally:
            # Cancelled too late, it runs all the same.
            self._watch.running(machine.row)

    async def _stop(self, machine: Machine, progress: Progress) -> None:
        await lifecycle.stop(machine, progress.stage, progress.id)

    async def _settle_killed(self, vm_id: str, progress: Progress) -> None:
        lock = self._locks.of(vm_id)
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await lock.acquire()
        except TimeoutError:
            # Whoever holds it sees the VMM gone and cleans up itself, unless it hangs.
            return

        try:
            row = await self._site.store.vm(vm_id)
            if row is not None and row.state is not VMState.STOPPED:
                machine = Machine(self._site, row)
                await lifecycle.release(machine, progress.stage, reason=KILLED)
        finally:
            lock.release()

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
