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
Rate = Annotated[int, Meta(ge=0, le=2**50)]
Protocol = Literal["tcp", "udp"]
Networks = Annotated[tuple[str, ...], Meta(max_length=64)]


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
    """Where a VM is in its life. Those in -ing but `running` belong to an operation under way.

    A `paused` VM keeps its VMM and its memory, and stands still; a `suspended` one is files only,
    its memory among them.
    """

    CREATING = "creating"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"
    STOPPING = "stopping"
    DELETING = "deleting"


class VMSpec(Model, frozen=True):
    """What a VM should be: fully resolved, nothing left to defaults.

    It reaches nothing beyond the host, with `nat` everything, or the networks `allow` alone. With
    `autostart` it is started when the host has booted. Each of its disks moves at most `disk_rate`
    bytes a second, its network `net_rate` in each direction; 0 sets no bound.
    """

    image: str
    vcpus: Vcpus
    memory: Bytes
    root_size: Bytes
    disk_size: Bytes
    nat: bool = False
    ports: tuple[PortForward, ...] = ()
    allow: Networks = ()
    autostart: bool = False
    disk_rate: Rate = 0
    net_rate: Rate = 0


class CreateVM(Request, frozen=True):
    """Body of `POST /v1/vms`. What is left out comes from the configuration, then the host.

    With `holder_pid` the VM is deleted when that process ends, however it ends. With `cold` it
    boots, though there may be a template to start it from.
    """

    name: Name | None = None
    image: Name | None = None
    vcpus: Vcpus | None = None
    memory: Bytes | None = None
    root_size: Bytes | None = None
    disk_size: Bytes | None = None
    nat: bool = False
    allow: Networks = ()
    ports: tuple[PortForward, ...] = ()
    autostart: bool = False
    disk_rate: Rate = 0
    net_rate: Rate = 0
    start: bool = True
    cold: bool = False
    holder_pid: Annotated[int, Meta(ge=1)] | None = None


class UpdateVM(Request, frozen=True):
    """Body of `PATCH /v1/vms/{vm}`: only what is named changes. Disks grow, never shrink.

    Of `nat` and `allow`, one takes the place of the other.
    """

    name: Name | UnsetType = UNSET
    vcpus: Vcpus | UnsetType = UNSET
    memory: Bytes | UnsetType = UNSET
    disk_size: Bytes | UnsetType = UNSET
    nat: bool | UnsetType = UNSET
    allow: Networks | UnsetType = UNSET
    ports: tuple[PortForward, ...] | UnsetType = UNSET
    autostart: bool | UnsetType = UNSET
    disk_rate: Rate | UnsetType = UNSET
    net_rate: Rate | UnsetType = UNSET


class KillVM(Request, frozen=True):
    """Body of `POST /v1/vms/{vm}/kill`: the signal the VMM process gets."""

    signal: Literal["KILL", "TERM", "INT", "QUIT", "ABRT"] = "KILL"


class ForkVM(Request, frozen=True):
    """Body of `POST /v1/vms/{vm}/fork`: `count` new VMs that go on from where this one is.

    `{n}` in `name` stands for the number of each, from 1; without a name they are called after the
    VM. With `snapshot` they go on from that snapshot of it. `holder_pid` is as in `CreateVM`.
    """

    count: Annotated[int, Meta(ge=1, le=256)] = 1
    name: Annotated[str, Meta(max_length=63)] | None = None
    snapshot: Name | None = None
    holder_pid: Annotated[int, Meta(ge=1)] | None = None


class CreateSnapshot(Request, frozen=True):
    """Body of `POST /v1/vms/{vm}/snapshots`; without a name one is made up."""

    name: Name | None = None


class RestoreSnapshot(Request, frozen=True):
    """Body of `POST /v1/vms/{vm}/snapshots/{snapshot}/restore`.

    Without `memory` only the disks go back: the VM is stopped then, and boots when it is started.
    """

    memory: bool = True


class MakeTemplate(Request, frozen=True):
    """Body of `POST /v1/templates`: which VMs to have one for; defaults are those of `CreateVM`."""

    image: Name | None = None
    vcpus: Vcpus | None = None
    memory: Bytes | None = None
    root_size: Bytes | None = None
    disk_size: Bytes | None = None


class PruneTemplates(Request, frozen=True):
    """Body of `POST /v1/templates/prune`: all of them, or those that no new VM would start from."""

    all: bool = False


class SSHEndpoint(Model, frozen=True):
    """How to reach a VM's sshd and be sure it is that VM: all an ssh command line needs."""

    host: str
    port: int
    user: str
    identity_file: str
    known_hosts_file: str
    host_key_alias: str


class AgentEndpoint(Model, frozen=True):
    """How to reach a VM's agent without the network: the directory with the sockets of its streams.

    docs/agent-protocol.md says what goes over them and how a stream is taken.
    """

    directory: str


class VM(Model, frozen=True):
    """One VM as the daemon knows it now.

    `reason` says in words why a VM that is not running is not (guest powered off, VMM died, host
    rebooted, start failed). `boot_id` is the guest kernel's, while it runs. `template` is the key
    of the template it was started from first, `parent` the id of the VM it is a fork of. Its sshd
    is at `ssh_host`:`ssh_port`; `hostname` is what the host knows it by while it runs, if anything.
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
    ssh_host: str = "127.0.0.1"
    ssh_port: int | None = None
    hostname: str | None = None
    pid: int | None = None
    accelerator: str | None = None
    boot_id: str | None = None
    reason: str | None = None
    holder_pid: int | None = None
    operation: str | None = None
    allocated_bytes: int | None = None
    template: str | None = None
    parent: str | None = None


class Snapshot(Model, frozen=True):
    """A VM at one moment: its disks, and its memory too if it ran.

    `name` is unique among the snapshots of its VM. `allocated_bytes` is what the memory and the
    disk layers that only it holds on to take.
    """

    id: str
    name: str
    vm_id: str
    vm: str
    created_at: float
    memory: bool
    spec: VMSpec
    allocated_bytes: int = 0


class Template(Model, frozen=True):
    """A guest that has booted, from which VMs of its image and shape start at once.

    `key` names everything that went into it; `clones` counts the VMs there are of it.
    """

    key: str
    image: str
    image_id: str
    kernel_id: str
    vcpus: Vcpus
    memory: Bytes
    root_size: Bytes
    disk_size: Bytes
    created_at: float
    used_at: float
    clones: int
    allocated_bytes: int


class Garbage(Model, frozen=True):
    """What `POST /v1/gc` removed: files and directories nothing referred to, and their size."""

    removed: tuple[str, ...] = ()
    freed_bytes: int = 0


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
    """A change under way or done. `target` is the id of what it changes.

    `made` names the VMs it made, when there may be several.
    """

    id: str
    kind: str
    state: OperationState
    started_at: float
    target: str | None = None
    target_name: str | None = None
    finished_at: float | None = None
    stages: tuple[Stage, ...] = ()
    made: tuple[str, ...] = ()
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
