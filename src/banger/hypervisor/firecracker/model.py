"""What Firecracker's API takes and answers, as its firecracker.yaml (OpenAPI) has it.

`target` is the path that a struct is put to. Sizes are in MiB where the name says so, times of rate
limiters in milliseconds.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a request that answers with success alone."""

    path: ClassVar[str]
    method: ClassVar[Literal["PUT", "PATCH"]] = "PUT"

    @property
    def target(self) -> str:
        return self.path


class TokenBucket(msgspec.Struct, frozen=True, kw_only=True):
    """`size` tokens (bytes or operations) that are full again after `refill_time` ms."""

    size: int
    refill_time: int
    one_time_burst: int | None = None


class RateLimiter(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on bytes and on operations."""

    bandwidth: TokenBucket | None = None
    ops: TokenBucket | None = None


class Logger(Setting, frozen=True, kw_only=True):
    """What it says on its standard output, or in `log_path`."""

    path = "/logger"

    level: Literal["Error", "Warning", "Info", "Debug"]
    log_path: str | None = None


class Metrics(Setting, frozen=True, kw_only=True):
    """Where it writes a line of JSON once a minute; the file exists."""

    path = "/metrics"

    metrics_path: str


class MachineConfig(Setting, frozen=True, kw_only=True):
    """Processors and memory."""

    path = "/machine-config"

    vcpu_count: int
    mem_size_mib: int
    smt: bool = False
    track_dirty_pages: bool = False


class BootSource(Setting, frozen=True, kw_only=True):
    """The kernel, an uncompressed ELF image, and what it is told."""

    path = "/boot-source"

    kernel_image_path: str
    initrd_path: str
    boot_args: str


class Drive(Setting, frozen=True, kw_only=True):
    """A block device; the guest sees them in the order in which they are put."""

    drive_id: str
    path_on_host: str
    is_read_only: bool
    is_root_device: bool = False
    cache_type: Literal["Unsafe", "Writeback"] = "Writeback"
    io_engine: Literal["Sync", "Async"] = "Sync"
    rate_limiter: RateLimiter | None = None

    @property
    def target(self) -> str:
        return f"/drives/{self.drive_id}"


class NetworkInterface(Setting, frozen=True, kw_only=True):
    """A NIC behind a tap of the host."""

    iface_id: str
    host_dev_name: str
    guest_mac: str
    rx_rate_limiter: RateLimiter | None = None
    tx_rate_limiter: RateLimiter | None = None

    @property
    def target(self) -> str:
        return f"/network-interfaces/{self.iface_id}"


class DriveLimit(Setting, frozen=True, kw_only=True):
    """A bound on a block device that is there."""

    method = "PATCH"

    drive_id: str
    rate_limiter: RateLimiter

    @property
    def target(self) -> str:
        return f"/drives/{self.drive_id}"


class NetworkLimit(Setting, frozen=True, kw_only=True):
    """A bound on a NIC that is there."""

    method = "PATCH"

    iface_id: str
    rx_rate_limiter: RateLimiter
    tx_rate_limiter: RateLimiter

    @property
    def target(self) -> str:
        return f"/network-interfaces/{self.iface_id}"


class Vsock(Setting, frozen=True, kw_only=True):
    """A socket device, whose host's end is the unix socket `uds_path`."""

    path = "/vsock"

    guest_cid: int
    uds_path: str


class Entropy(Setting, frozen=True, kw_only=True):
    """A random number generator."""

    path = "/entropy"

    rate_limiter: RateLimiter | None = None


class Balloon(Setting, frozen=True, kw_only=True):
    """What can take memory back from the guest."""

    path = "/balloon"

    amount_mib: int
    deflate_on_oom: bool
    stats_polling_interval_s: int = 0


class BalloonTarget(Setting, frozen=True, kw_only=True):
    """How much memory the balloon is to take from a guest that runs."""

    path = "/balloon"
    method = "PATCH"

    amount_mib: int


class BalloonStatistics(msgspec.Struct, frozen=True):
    """How much it has taken."""

    actual_mib: int


class Action(Setting, frozen=True, kw_only=True):
    """Something to do now."""

    path = "/actions"

    action_type: Literal["InstanceStart", "FlushMetrics", "SendCtrlAltDel"]


class SnapshotCreate(Setting, frozen=True, kw_only=True):
    """Write a paused guest's devices and all of its memory to two files."""

    path = "/snapshot/create"

    snapshot_path: str
    mem_file_path: str
    snapshot_type: Literal["Full"] = "Full"


class MemoryBackend(msgspec.Struct, frozen=True, kw_only=True):
    """Where a restored guest's memory comes from; a file is mapped, privately."""

    backend_path: str
    backend_type: Literal["File"] = "File"


class NetworkOverride(msgspec.Struct, frozen=True, kw_only=True):
    """Another tap than the one that the saved guest had."""

    iface_id: str
    host_dev_name: str


class SnapshotLoad(Setting, frozen=True, kw_only=True):
    """Become a saved guest, in place of all that is configured otherwise."""

    path = "/snapshot/load"

    snapshot_path: str
    mem_backend: MemoryBackend
    network_overrides: tuple[NetworkOverride, ...]
    resume_vm: bool = False


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """Patched to `/vm`: whether the guest's processors run."""

    state: Literal["Paused", "Resumed"]


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What it says of itself."""

    state: Literal["Not started", "Running", "Paused"]


class Refusal(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success."""

    fault_message: str = ""
