"""A daemon of a few lines on a real socket: what client and command line are tested against."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

import banger
from banger.api.errors import BangerError, CallerError, ErrorBody, ErrorCode, ErrorKind
from banger.api.models import (
    VM,
    DaemonStatus,
    DaemonVersion,
    ErrorReply,
    Operation,
    OperationState,
    Stage,
    VMSpec,
    VMState,
)

GIB = 2**30
CANCELLED = ErrorBody(ErrorCode.CANCELLED, "cancelled on request", ErrorKind.CALLER)


def make_vm(vm_id: str, name: str, state: VMState = VMState.RUNNING) -> VM:
    spec = VMSpec(image="debian", vcpus=2, memory=GIB, root_size=8 * GIB, disk_size=8 * GIB)
    return VM(
        id=vm_id,
        name=name,
        state=state,
        spec=spec,
        image_id="i1",
        created_at=time.time() - 90,
        updated_at=0,
        address="10.213.0.5",
        ssh_port=40001,
    )


def succeeded(kind: str, vm: VM | None = None) -> Operation:
    return Operation(
        id=f"op-{kind}",
        kind=kind,
        state=OperationState.SUCCEEDED,
        started_at=100.0,
        finished_at=104.2,
        target=vm.id if vm else None,
        target_name=vm.name if vm else None,
        stages=(Stage(name="disks", started_at=100.0, finished_at=101.5),),
    )


class FakeDaemon:
    """Serves `vms`; every other reply can be set in `replies`, a raised BangerError is an answer.

    An operation whose kind is in `holding` does not end until it is cancelled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = banger.__version__
        self.vms: dict[str, VM] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.replies: dict[tuple[str, str], Callable[[Any], object]] = {}
        self.streams: dict[str, list[bytes]] = {}
        self.holding: set[str] = set()
        self.operations: dict[str, Operation] = {}
        self.busy = 0
        self._cancelled = threading.Event()
        self._server = _Server(str(path), _Handler)
        self._server.daemon_of = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cancelled.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.path.unlink(missing_ok=True)

    def add(self, *vms: VM) -> None:
        self.vms |= {vm.id: vm for vm in vms}

    def asked(self, method: str) -> list[str]:
        return [path for used, path, _ in self.requests if used == method]

    def answer(self, method: str, path: str, body: Any) -> object:
        self.requests.append((method, path, body))
        if (method, path) in self.replies:
            return self.replies[method, path](body)

        parts = path.split("/")[2:]
        match (method, *parts):
            case ("GET", "version"):
                return DaemonVersion(version=self.version, pid=1)
            case ("GET", "status"):
                return self._status()
            case (_, "vms", *rest):
                return self._answer_vms(method, rest, body)
            case ("DELETE", "operations", _):
                self._cancelled.set()
                return succeeded("cancel")
            case _:
                raise CallerError(ErrorCode.NOT_FOUND, f"there is nothing at {path!r}")

    def _answer_vms(self, method: str, parts: list[str], body: Any) -> object:
        match (method, *parts):
            case ("GET",):
                return list(self.vms.values())
            case ("GET", ref):
                return self.find(ref)
            case ("POST",):
                return self._create(body)
            case ("DELETE", ref):
                return self._begin("delete", self.vms.pop(self.find(ref).id))
            case ("PATCH", ref):
                return self._begin("update", self.find(ref))
            case ("POST", ref, verb):
                return self._begin(verb, self.find(ref))
            case _:
                raise CallerError(ErrorCode.NOT_FOUND, f"there is nothing at {parts!r}")

    def events(self, operation_id: str) -> list[Callable[[], Operation]]:
        operation = self.operations[operation_id]
        running = msgspec.structs.replace(operation, state=OperationState.RUNNING, finished_at=None)
        if operation.kind not in self.holding:
            return [lambda: running, lambda: operation]

        def cancelled() -> Operation:
            self._cancelled.wait(20)
            return msgspec.structs.replace(
                operation, state=OperationState.CANCELLED, error=CANCELLED
            )

        return [lambda: running, cancelled]

    def fail(self, kind: str, vm: VM, error: BangerError) -> Operation:
        """An operation that ends with `error`; returned as an answer, it looks under way."""
        failed = msgspec.structs.replace(
            succeeded(kind, vm), state=OperationState.FAILED, error=error.body()
        )
        return self._publish(failed)

    def find(self, ref: str) -> VM:
        for vm in self.vms.values():
            if ref == vm.name or vm.id.startswith(ref):
                return vm

        raise CallerError(ErrorCode.UNKNOWN_VM, f"there is no VM {ref!r}", hint="banger vm list")

    def _create(self, body: Any) -> Operation:
        vm = make_vm(f"{len(self.vms):012x}", body.get("name", "calm-otter"))
        self.add(vm)
        return self._begin("create", vm)

    def _begin(self, kind: str, vm: VM) -> Operation:
        return self._publish(succeeded(kind, vm))

    def _publish(self, operation: Operation) -> Operation:
        operation = msgspec.structs.replace(operation, id=f"op-{len(self.operations)}")
        self.operations[operation.id] = operation
        return msgspec.structs.replace(
            operation, state=OperationState.RUNNING, finished_at=None, error=None
        )

    def _status(self) -> DaemonStatus:
        return DaemonStatus(
            version=self.version,
            pid=1,
            started_at=0.0,
            socket=str(self.path),
            state_dir="/s",
            host_path="embedded",
            hypervisor="qemu",
            accelerator="tcg",
            vms=len(self.vms),
            running=0,
            operations=self.busy,
        )


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
    daemon_of: FakeDaemon

    def handle_error(self, *_: object) -> None:
        """A client that leaves in the middle is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        daemon = self.server.daemon_of
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if path.endswith("/events"):
            self._stream(
                msgspec.json.encode(event()) + b"\n" for event in daemon.events(path.split("/")[3])
            )
        elif path in daemon.streams:
            daemon.requests.append((self.command, self.path, None))
            self._stream(daemon.streams[path])
        else:
            self._answer(daemon, path, msgspec.json.decode(body) if body else None)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _answer(self, daemon: FakeDaemon, path: str, body: Any) -> None:
        status = 200 if self.command == "GET" else 202
        try:
            answer = daemon.answer(self.command, path, body)
        except BangerError as error:
            status, answer = 409, ErrorReply(error=error.body())

        data = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, pieces: Any) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()

        self.wfile.write(b"0\r\n\r\n")
