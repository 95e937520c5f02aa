"""Services that keep everything in memory, and a way to call the API without a socket."""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
from starlette.types import ASGIApp, Message, Scope

from banger import __version__
from banger.api.errors import CallerError, ErrorCode
from banger.api.models import (
    VM,
    AgentEndpoint,
    BuildImage,
    Check,
    CheckStatus,
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
    VMSpec,
    VMState,
    VMStats,
)
from banger.api.sizes import GIB, MIB
from banger.daemon.app import build_app
from banger.daemon.operations import Operations, Progress
from banger.daemon.store import Store

T = TypeVar("T")

SPEC = VMSpec(
    image="debian-bookworm", vcpus=2, memory=512 * MIB, root_size=8 * GIB, disk_size=8 * GIB
)
IMAGE = Image(
    id="image-1",
    name="debian-bookworm",
    kernel="kernel-1",
    created_at=1.0,
    root_size=8 * GIB,
    work_size=8 * GIB,
    allocated_bytes=GIB,
    packages=("systemd",),
)
KERNEL = Kernel(id="kernel-1", name="cloud", release="6.1", created_at=1.0, allocated_bytes=MIB)


async def at_once(progress: Progress) -> None:
    progress.stage("only")


class FakeVMs:
    def __init__(self, operations: Operations, directory: Path) -> None:
        self._operations = operations
        self.console = directory / "vm" / "console.log"
        self.vms: dict[str, VM] = {}
        self.asked: builtins.list[object] = []

    async def list(self) -> list[VM]:
        return [*self.vms.values()]

    async def show(self, ref: str) -> VM:
        if ref == "boom":
            raise ZeroDivisionError

        if ref not in self.vms:
            raise CallerError(ErrorCode.UNKNOWN_VM, f"there is no VM {ref!r}", hint="look")

        return self.vms[ref]

    async def create(self, request: CreateVM) -> Operation:
        self.asked.append(request)
        name = request.name or f"made-up-{len(self.vms)}"
        if name in self.vms:
            raise CallerError(ErrorCode.NAME_TAKEN, f"there is already a VM named {name!r}")

        self.vms[name] = VM(
            id=f"{len(self.vms):012x}",
            name=name,
            state=VMState.RUNNING,
            spec=SPEC,
            image_id=IMAGE.id,
            created_at=1.0,
            updated_at=1.0,
        )
        return await self._change("vm.create", name)

    async def update(self, ref: str, request: UpdateVM) -> Operation:
        self.asked.append(request)
        return await self._change("vm.update", ref)

    async def start(self, ref: str) -> Operation:
        return await self._change("vm.start", ref)

    async def stop(self, ref: str) -> Operation:
        return await self._change("vm.stop", ref)

    async def restart(self, ref: str) -> Operation:
        return await self._change("vm.restart", ref)

    async def pause(self, ref: str) -> Operation:
        return await self._change("vm.pause", ref)

    async def resume(self, ref: str) -> Operation:
        return await self._change("vm.resume", ref)

    async def reclaim(self, ref: str) -> Operation:
        return await self._change("vm.reclaim", ref)

    async def suspend(self, ref: str) -> Operation:
        return await self._change("vm.suspend", ref)

    async def delete(self, ref: str) -> Operation:
        operation = await self._change("vm.delete", ref)
        del self.vms[ref]
        return operation

    async def kill(self, ref: str, request: KillVM) -> Operation:
        self.asked.append(request)
        return await self._change("vm.kill", ref)

    async def ssh(self, ref: str) -> SSHEndpoint:
        vm = await self.show(ref)
        return SSHEndpoint(
            host="127.0.0.1",
            port=22000,
            user="root",
            identity_file="/key",
            known_hosts_file="/known_hosts",
            host_key_alias=vm.id,
        )

    async def agent(self, ref: str) -> AgentEndpoint:
        vm = await self.show(ref)
        return AgentEndpoint(directory=f"/run/{vm.id}")

    async def stats(self, ref: str) -> VMStats:
        vm = await self.show(ref)
        return VMStats(id=vm.id, name=vm.name, state=vm.state)

    async def console_log(self, ref: str) -> Path:
        await self.show(ref)
        return self.console

    async def _change(self, kind: str, ref: str) -> Operation:
        vm = await self.show(ref)
        return await self._operations.start(kind, at_once, target=vm.id, target_name=vm.name)


class FakeSnapshots:
    def __init__(self, operations: Operations, vms: FakeVMs) -> None:
        self._operations = operations
        self._vms = vms
        self.snapshots: dict[str, Snapshot] = {}
        self.asked: builtins.list[object] = []

    async def list(self, vm: str) -> list[Snapshot]:
        await self._vms.show(vm)
        return [*self.snapshots.values()]

    async def show(self, vm: str, snapshot: str) -> Snapshot:
        await self._vms.show(vm)
        if snapshot not in self.snapshots:
            raise CallerError(ErrorCode.UNKNOWN_SNAPSHOT, f"there is no snapshot {snapshot!r}")

        return self.snapshots[snapshot]

    async def create(self, vm: str, request: CreateSnapshot) -> Operation:
        self.asked.append(request)
        shown = await self._vms.show(vm)
        name = request.name or f"made-up-{len(self.snapshots)}"
        self.snapshots[name] = Snapshot(
            id=f"{len(self.snapshots):012x}",
            name=name,
            vm_id=shown.id,
            vm=shown.name,
            created_at=1.0,
            memory=True,
            spec=shown.spec,
        )
        return await self._change("snapshot.create", vm)

    async def restore(self, vm: str, snapshot: str, request: RestoreSnapshot) -> Operation:
        self.asked.append(request)
        await self.show(vm, snapshot)
        return await self._change("snapshot.restore", vm)

    async def delete(self, vm: str, snapshot: str) -> Operation:
        await self.show(vm, snapshot)
        operation = await self._change("snapshot.delete", vm)
        del self.snapshots[snapshot]
        return operation

    async def fork(self, vm: str, request: ForkVM) -> Operation:
        self.asked.append(request)
        return await self._change("vm.fork", vm)

    async def _change(self, kind: str, vm: str) -> Operation:
        shown = await self._vms.show(vm)
        return await self._operations.start(kind, at_once, target=shown.id, target_name=shown.name)


TEMPLATE = Template(
    key="0123456789abcdef",
    image=IMAGE.name,
    image_id=IMAGE.id,
    kernel_id=KERNEL.id,
    vcpus=2,
    memory=512 * MIB,
    root_size=8 * GIB,
    disk_size=8 * GIB,
    created_at=1.0,
    used_at=2.0,
    clones=1,
    allocated_bytes=MIB,
)


class FakeTemplates:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self.templates = {TEMPLATE.key: TEMPLATE}
        self.asked: builtins.list[object] = []

    async def list(self) -> list[Template]:
        return [*self.templates.values()]

    async def make(self, request: MakeTemplate) -> Operation:
        self.asked.append(request)
        return await self._change("template.make")

    async def delete(self, key: str) -> Operation:
        if key not in self.templates:
            raise CallerError(ErrorCode.UNKNOWN_TEMPLATE, f"there is no template {key!r}")

        return await self._change("template.delete")

    async def prune(self, request: PruneTemplates) -> Operation:
        self.asked.append(request)
        return await self._change("template.prune")

    async def _change(self, kind: str) -> Operation:
        return await self._operations.start(kind, at_once, target=None, target_name=None)


class FakeImages:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self.images = {IMAGE.name: IMAGE}

    async def list(self) -> list[Image]:
        return [*self.images.values()]

    async def show(self, name: str) -> Image:
        if name not in self.images:
            raise CallerError(ErrorCode.UNKNOWN_IMAGE, f"there is no image {name!r}")

        return self.images[name]

    async def build(self, request: BuildImage) -> Operation:
        return await self._operations.start(
            "image.build", at_once, target=None, target_name=request.name
        )

    async def delete(self, name: str) -> Operation:
        image = await self.show(name)
        raise CallerError(ErrorCode.IMAGE_IN_USE, f"image {image.name} is in use")

    async def kernels(self) -> builtins.list[Kernel]:
        return [KERNEL]

    async def kernel(self, name: str) -> Kernel:
        if name != KERNEL.name:
            raise CallerError(ErrorCode.UNKNOWN_KERNEL, f"there is no kernel {name!r}")

        return KERNEL


class FakeServices:
    def __init__(self, store: Store, directory: Path) -> None:
        self.store = store
        self.operations = Operations(store)
        self.vms = FakeVMs(self.operations, directory)
        self.snapshots = FakeSnapshots(self.operations, self.vms)
        self.templates = FakeTemplates(self.operations)
        self.images = FakeImages(self.operations)

    async def status(self) -> DaemonStatus:
        return DaemonStatus(
            version=__version__,
            pid=os.getpid(),
            started_at=1.0,
            socket="/run/bangerd.sock",
            state_dir="/state",
            host_path="embedded",
            hypervisor="QEMU 7.2",
            accelerator="tcg",
            vms=len(self.vms.vms),
            running=0,
            operations=self.operations.running(),
        )

    async def doctor(self) -> DoctorReport:
        return DoctorReport(
            checks=(Check(name="kvm", status=CheckStatus.WARN, summary="not usable"),)
        )

    async def stop_guests(self) -> Operation:
        return await self.operations.start("guests.stop", at_once, target=None, target_name=None)

    async def gc(self) -> Garbage:
        return Garbage(removed=("disks/0123456789ab.qcow2",), freed_bytes=4096)

    async def close(self) -> None:
        await self.operations.close()
        await self.store.close()


@dataclass
class Reply:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self, kind: type[T]) -> T:
        return msgspec.json.decode(self.body, type=kind)


@dataclass
class Api:
    """The API over fake services. `closing` and `stopped` are what the daemon's main would set."""

    services: FakeServices
    app: ASGIApp
    closing: asyncio.Event
    stopped: asyncio.Event

    async def ask(self, method: str, target: str, body: bytes = b"") -> Reply:
        """One request and its whole answer."""
        async with self.stream(method, target, body) as reply:
            return await reply.whole()

    async def _call(self, scope: Scope, stream: Stream) -> None:
        await self.app(scope, stream.incoming.get, stream.send)

    @asynccontextmanager
    async def stream(self, method: str, target: str, body: bytes = b"") -> AsyncIterator[Stream]:
        """One request whose answer is read piece by piece; the client leaves at the end."""
        stream = Stream()
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [],
        }
        stream.incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        task = asyncio.create_task(self._call(scope, stream))
        task.add_done_callback(lambda _: stream.pieces.put_nowait(None))
        try:
            yield stream
        finally:
            stream.incoming.put_nowait({"type": "http.disconnect"})
            await task


class Stream:
    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.reply = Reply()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            assert self.reply.status == 0, "the answer began twice"
            self.reply.status = message["status"]
            self.reply.headers = {
                name.decode(): value.decode() for name, value in message["headers"]
            }
        elif message["body"]:
            self.pieces.put_nowait(message["body"])

    async def next(self) -> bytes | None:
        """The next piece; None once the answer has ended."""
        return await self.pieces.get()

    async def whole(self) -> Reply:
        while (piece := await self.next()) is not None:
            self.reply.body += piece

        return self.reply


@asynccontextmanager
async def fake_api(directory: Path) -> AsyncIterator[Api]:
    services = FakeServices(await Store.open(directory / "state.db"), directory)
    closing, stopped = asyncio.Event(), asyncio.Event()
    app = build_app(services, shutdown=stopped.set, closing=closing)
    try:
        yield Api(services, app, closing, stopped)
    finally:
        await services.close()
