"""The Python SDK: every call of the API as a typed method.

Calls that change something return the operation at once; `wait` follows it to its end. A VM is
named by name, id or a unique prefix of its id. Every method raises the BangerError the daemon
answered with, or what `Transport` says about a daemon that does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from banger.api.errors import CallerError, ErrorCode, OutcomeUnknown, PermanentError, from_body
from banger.api.models import (
    VM,
    AgentEndpoint,
    BuildImage,
    CreateSnapshot,
    CreateVM,
    DaemonStatus,
    DaemonVersion,
    DoctorReport,
    ErrorReply,
    ForkVM,
    Garbage,
    Image,
    Kernel,
    KillVM,
    MakeTemplate,
    Operation,
    OperationState,
    PruneTemplates,
    Request,
    RestoreSnapshot,
    Snapshot,
    SSHEndpoint,
    Template,
    UpdateVM,
    VMStats,
)
from banger.client.transport import Transport

_T = TypeVar("_T")


class Client:
    """Talks to the daemon on `socket`; holds no connection, so it may be shared between threads."""

    def __init__(self, socket: Path, *, timeout: float = 60.0) -> None:
        self._transport = Transport(socket, timeout=timeout)

    @property
    def socket(self) -> Path:
        return self._transport.path

    def version(self) -> DaemonVersion:
        return self._get("/v1/version", DaemonVersion)

    def status(self) -> DaemonStatus:
        return self._get("/v1/status", DaemonStatus)

    def shutdown(self) -> None:
        """Ask the daemon to end. It answers first and ends soon after; VMs run on."""
        self._ask("POST", "/v1/shutdown", b"")

    def stop_guests(self) -> Operation:
        """Stop all VMs at once, as when the host shuts down."""
        return self._change("POST", "/v1/guests/stop")

    def doctor(self) -> DoctorReport:
        return self._get("/v1/doctor", DoctorReport)

    def vms(self) -> list[VM]:
        return self._get("/v1/vms", list[VM])

    def vm(self, vm: str) -> VM:
        return self._get(_vm_path(vm), VM)

    def create_vm(self, request: CreateVM) -> Operation:
        return self._change("POST", "/v1/vms", request)

    def update_vm(self, vm: str, request: UpdateVM) -> Operation:
        return self._change("PATCH", _vm_path(vm), request)

    def delete_vm(self, vm: str) -> Operation:
        return self._change("DELETE", _vm_path(vm))

    def start_vm(self, vm: str) -> Operation:
        return self._change("POST", f"{_vm_path(vm)}/start")

    def stop_vm(self, vm: str) -> Operation:
        return self._change("POST", f"{_vm_path(vm)}/stop")

    def restart_vm(self, vm: str) -> Operation:
        return self._change("POST", f"{_vm_path(vm)}/restart")

    def pause_vm(self, vm: str) -> Operation:
        return self._change("POST", f"{_vm_path(vm)}/pause")

    def resume_vm(self, vm: str) -> Operation:
        return self._change("POST", f"{_vm_path(vm)}/resume")

    def reclaim_vm(self, vm: str) -> Operation:
        """Give the host what memory a running VM does not need now."""
        return self._change("POST", f"{_vm_path(vm)}/reclaim")

    def suspend_vm(self, vm: str) -> Operation:
        """Keep a VM's memory on disk and end it; `start_vm` lets it go on from there."""
        return self._change("POST", f"{_vm_path(vm)}/suspend")

    def fork_vm(self, vm: str, request: ForkVM) -> Operation:
        """Make VMs that go on from where one is; the operation's `made` names them."""
        return self._change("POST", f"{_vm_path(vm)}/fork", request)

    def kill_vm(self, vm: str, request: KillVM) -> Operation:
        return self._change("POST", f"{_vm_path(vm)}/kill", request)

    def ssh(self, vm: str) -> SSHEndpoint:
        """Where the sshd of a running VM is. Raises CallerError(vm_not_running)."""
        return self._get(f"{_vm_path(vm)}/ssh", SSHEndpoint)

    def agent(self, vm: str) -> AgentEndpoint:
        """Where the agent of a running VM is. Raises CallerError(vm_not_running)."""
        return self._get(f"{_vm_path(vm)}/agent", AgentEndpoint)

    def stats(self, vm: str) -> VMStats:
        return self._get(f"{_vm_path(vm)}/stats", VMStats)

    def logs(self, vm: str, *, follow: bool = False, tail: int | None = None) -> Iterator[bytes]:
        """The console log as it is, the last `tail` lines of it; with `follow`, what comes too."""
        query = [f"follow={str(follow).lower()}"]
        if tail is not None:
            query.append(f"tail={tail}")

        return self._pieces(f"{_vm_path(vm)}/logs?{'&'.join(query)}")

    def snapshots(self, vm: str) -> list[Snapshot]:
        """The snapshots of a VM, oldest first."""
        return self._get(f"{_vm_path(vm)}/snapshots", list[Snapshot])

    def snapshot(self, vm: str, snapshot: str) -> Snapshot:
        return self._get(_snapshot_path(vm, snapshot), Snapshot)

    def create_snapshot(self, vm: str, request: CreateSnapshot) -> Operation:
        return self._change("POST", f"{_vm_path(vm)}/snapshots", request)

    def restore_snapshot(self, vm: str, snapshot: str, request: RestoreSnapshot) -> Operation:
        """Make a VM again what it was; what it is now is lost."""
        return self._change("POST", f"{_snapshot_path(vm, snapshot)}/restore", request)

    def delete_snapshot(self, vm: str, snapshot: str) -> Operation:
        return self._change("DELETE", _snapshot_path(vm, snapshot))

    def templates(self) -> list[Template]:
        """All templates, the one used last first."""
        return self._get("/v1/templates", list[Template])

    def make_template(self, request: MakeTemplate) -> Operation:
        return self._change("POST", "/v1/templates", request)

    def delete_template(self, key: str) -> Operation:
        return self._change("DELETE", f"/v1/templates/{_segment(key, 'template')}")

    def prune_templates(self, request: PruneTemplates) -> Operation:
        return self._change("POST", "/v1/templates/prune", request)

    def collect_garbage(self) -> Garbage:
        """Have what nothing refers to removed; returns what it was."""
        return _decode(self._ask("POST", "/v1/gc", b""), Garbage)

    def images(self) -> list[Image]:
        return self._get("/v1/images", list[Image])

    def image(self, name: str) -> Image:
        return self._get(f"/v1/images/{_segment(name, 'image')}", Image)

    def build_image(self, request: BuildImage) -> Operation:
        return self._change("POST", "/v1/images/build", request)

    def delete_image(self, name: str) -> Operation:
        return self._change("DELETE", f"/v1/images/{_segment(name, 'image')}")

    def kernels(self) -> list[Kernel]:
        return self._get("/v1/kernels", list[Kernel])

    def kernel(self, name: str) -> Kernel:
        return self._get(f"/v1/kernels/{_segment(name, 'kernel')}", Kernel)

    def operations(self) -> list[Operation]:
        return self._get("/v1/operations", list[Operation])

    def operation(self, operation: str) -> Operation:
        return self._get(f"/v1/operations/{_segment(operation, 'operation')}", Operation)

    def cancel(self, operation: str) -> None:
        """Ask for an operation to be undone; `wait` for it to know when it is."""
        self._ask("DELETE", f"/v1/operations/{_segment(operation, 'operation')}", b"")

    def events(self, operation: str, tick: float | None = None) -> Iterator[Operation | None]:
        """Snapshots of an operation, the last one final; None whenever `tick` seconds pass."""
        target = f"/v1/operations/{_segment(operation, 'operation')}/events"
        with self._transport.stream("GET", target) as stream:
            if stream.status != 200:
                raise _error(stream.status, stream.read(timeout=10))

            for line in stream.lines(tick):
                yield _decode(line, Operation) if line else None

    def wait(
        self,
        operation: Operation,
        on_change: Callable[[Operation], None] | None = None,
        *,
        tick: float | None = None,
    ) -> Operation:
        """Follow `operation` to its end and return it. Raises the error it ended with.

        `on_change` gets every snapshot, and the newest one again after `tick` quiet seconds.
        """
        latest = operation
        if latest.state is OperationState.RUNNING:
            for snapshot in self.events(operation.id, tick):
                latest = snapshot or latest
                if on_change is not None:
                    on_change(latest)

        return finished(latest)

    def _get(self, target: str, answer: type[_T]) -> _T:
        return _decode(self._ask("GET", target, b""), answer)

    def _change(self, method: str, target: str, request: Request | None = None) -> Operation:
        body = b"" if request is None else msgspec.json.encode(request)
        return _decode(self._ask(method, target, body), Operation)

    def _ask(self, method: str, target: str, body: bytes) -> bytes:
        reply = self._transport.request(method, target, body)
        if reply.status >= 300:
            raise _error(reply.status, reply.body)

        return reply.body

    def _pieces(self, target: str) -> Iterator[bytes]:
        with self._transport.stream("GET", target) as stream:
            if stream.status != 200:
                raise _error(stream.status, stream.read(timeout=10))

            yield from stream.pieces()


def finished(operation: Operation) -> Operation:
    """`operation` if it succeeded. Raises its error, or OutcomeUnknown if it has not ended."""
    if operation.state is OperationState.SUCCEEDED:
        return operation

    if operation.state is OperationState.RUNNING:
        raise OutcomeUnknown(
            ErrorCode.INTERRUPTED,
            f"the daemon went away while {operation.kind} was under way",
            hint="see what was done with: banger vm list",
        )

    if operation.error is not None:
        raise from_body(operation.error)

    raise CallerError(ErrorCode.CANCELLED, f"{operation.kind} was cancelled")


def _vm_path(vm: str) -> str:
    return f"/v1/vms/{_segment(vm, 'VM')}"


def _snapshot_path(vm: str, snapshot: str) -> str:
    return f"{_vm_path(vm)}/snapshots/{_segment(snapshot, 'snapshot')}"


def _segment(name: str, what: str) -> str:
    # An empty one would address the whole collection.
    if not name:
        raise CallerError(ErrorCode.INVALID_REQUEST, f"an empty text names no {what}")

    return quote(name, safe="")


def _decode(body: bytes, answer: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=answer)
    except msgspec.MsgspecError as error:
        raise PermanentError(
            ErrorCode.INTERNAL,
            f"the daemon's answer makes no sense: {error}",
            hint="is it another version? see: banger version",
        ) from None


def _error(status: int, body: bytes) -> Exception:
    try:
        return from_body(msgspec.json.decode(body, type=ErrorReply).error)
    except msgspec.MsgspecError:
        text = body.decode(errors="replace").strip()[:200]
        return PermanentError(ErrorCode.INTERNAL, f"the daemon answered {status}: {text}")
