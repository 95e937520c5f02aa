"""What the API speaks of: VMs, images, kernels, operations. Sizes are bytes, times Unix seconds."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from banger.api.errors import ErrorBody
from banger.api.names import NAME_PATTERN

Name = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=63)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Vcpus = Annotated[int, Meta(ge=1, le=64)]
Bytes = Annotated[int, Meta(ge=1, le=2**50)]
Protocol = Literal["tcp", "udp"]


class Model(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what is sent; unknown fields are ignored so that older clients read newer daemons."""


class Request(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Base of what is received; unknown fields are refused so that a misspelt one is noticed."""


class PortForward(Request, frozen=True):
    """A guest port published on the host: connections to `host_ip:host_port` reach `guest_port`."""

    host_port: Port
    guest_port: Port
    host_ip: str = "127.0.0.1"
    protocol: Protocol = "tcp"


class VMState(StrEnum):
    """Where a VM is in its life. The transient ones belong to an operation that is under way."""

    CREATING = "creating"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    DELETING = "deleting"


class VMSpec(Model, frozen=True):
    """What a VM should be: fully resolved, nothing left to defaults."""

    image: str
    vcpus: Vcpus
    memory: Bytes
    root_size: Bytes
    disk_size: Bytes
    nat: bool = False
    ports: tuple[PortForward, ...] = ()


class CreateVM(Request, frozen=True):
    """Body of `POST /v1/vms`. What is left out comes from the configuration, then the host.

    With `holder_pid` the VM is deleted when that process ends, however it ends.
    """

    name: Name | None = None
    image: Name | None = None
    vcpus: Vcpus | None = None
    memory: Bytes | None = None
    root_size: Bytes | None = None
    disk_size: Bytes | None = None
    nat: bool = False
    ports: tuple[PortForward, ...] = ()
    start: bool = True
    holder_pid: Annotated[int, Meta(ge=1)] | None = None


class UpdateVM(Request, frozen=True):
    """Body of `PATCH /v1/vms/{vm}`: only what is named changes. Disks grow, never shrink."""

    name: Name | UnsetType = UNSET
    vcpus: Vcpus | UnsetType = UNSET
    memory: Bytes | UnsetType = UNSET
    disk_size: Bytes | UnsetType = UNSET
    nat: bool | UnsetType = UNSET
    ports: tuple[PortForward, ...] | UnsetType = UNSET


class KillVM(Request, frozen=True):
    """Body of `POST /v1/vms/{vm}/kill`: the signal the VMM process gets."""

    signal: Literal["KILL", "TERM", "INT", "QUIT", "ABRT"] = "KILL"


class SSHEndpoint(Model, frozen=True):
    """How to reach a VM's sshd and be sure it is that VM: all an ssh command line needs."""

    host: str
    port: int
    user: str
    identity_file: str
    known_hosts_file: str
    host_key_alias: str


class VM(Model, frozen=True):
    """One VM as the daemon knows it now.

    `reason` says in words why a VM that is not running is not (guest powered off, VMM died, host
    rebooted, start failed). `boot_id` is the guest kernel's, while it runs.
    """

    id: str
    name: str
    state: VMState
    spec: VMSpec
    image_id: str
    created_at: float
    updated_at: float
    started_at: float | None = None
    address: str | None = None
    ssh_port: int | None = None
    pid: int | None = None
    accelerator: str | None = None
    boot_id: str | None = None
    reason: str | None = None
    holder_pid: int | None = None
    operation: str | None = None
    allocated_bytes: int | None = None


class VMStats(Model, frozen=True):
    """Resource use of one VM. CPU seconds are since its VMM started; disk is what is allocated."""

    id: str
    name: str
    state: VMState
    cpu_seconds: float = 0.0
    cpu_percent: float = 0.0
    rss_bytes: int = 0
    pss_bytes: int = 0
    uptime_seconds: float = 0.0
    root_allocated_bytes: int = 0
    work_allocated_bytes: int = 0


class OperationState(StrEnum):
    """An operation ends in exactly one of the last three."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Stage(Model, frozen=True):
    """One step of an operation, as shown to people; under way while `finished_at` is None."""

    name: str
    started_at: float
    finished_at: float | None = None
    detail: str | None = None


class Operation(Model, frozen=True):
    """A change under way or done. `target` is the id of what it changes."""

    id: str
    kind: str
    state: OperationState
    started_at: float
    target: str | None = None
    target_name: str | None = None
    finished_at: float | None = None
    stages: tuple[Stage, ...] = ()
    error: ErrorBody | None = None


class BuildImage(Request, frozen=True):
    """Body of `POST /v1/images/build`: a recipe as TOML text, a built-in name, or the default."""

    name: Name | None = None
    recipe: str | None = None
    force: bool = False


class Image(Model, frozen=True):
    """A root filesystem, the seed of its work disk, and the kernel it boots with."""

    id: str
    name: str
    kernel: str
    created_at: float
    root_size: int
    work_size: int
    allocated_bytes: int
    distribution: str = ""
    packages: tuple[str, ...] = ()


class Kernel(Model, frozen=True):
    """A kernel and the initial RAM file system banger boots it with."""

    id: str
    name: str
    release: str
    created_at: float
    allocated_bytes: int
    source: str = ""


class DaemonVersion(Model, frozen=True):
    """`GET /v1/version`: which banger serves the socket, and as which process."""

    version: str
    pid: int


class DaemonStatus(Model, frozen=True):
    """`GET /v1/status`: the daemon itself."""

    version: str
    pid: int
    started_at: float
    socket: str
    state_dir: str
    host_path: Literal["embedded", "system"]
    hypervisor: str
    accelerator: str
    vms: int
    running: int
    operations: int


class CheckStatus(StrEnum):
    """Verdict of one doctor check; only FAIL makes `banger doctor` exit non-zero."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"


class Check(Model, frozen=True):
    """One doctor finding: what was looked at, what was seen, and what to do about it."""

    name: str
    status: CheckStatus
    summary: str
    details: tuple[str, ...] = ()
    fix: str | None = None


class DoctorReport(Model, frozen=True):
    """All doctor checks, in the order they are worth reading."""

    checks: tuple[Check, ...]


class ErrorReply(Model, frozen=True):
    """Body of every reply that is not a success."""

    error: ErrorBody
