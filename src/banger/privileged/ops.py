"""The closed list of operations. A request is data: nothing in it is a rule, a flag, a command.

Addresses are IPv4 in text, sizes bytes, paths absolute. A request says what it is about; whose it
is (uid, gid, directories) is never asked of the caller but known from the installation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Generic, TypeVar

PROTOCOL = 1
"""Version of requests and replies; a helper refuses any other."""

FILES, DEVICES = "files", "devices"
"""Directories in a jail: `/files/<name>` and `/devices/<name>`."""

API_SOCKET = "api.sock"
"""The name of a VMM's API socket in its run directory."""

R_co = TypeVar("R_co", covariant=True)


class Request(Generic[R_co]):
    """An operation whose reply is an `R_co`. `limit` is how long it may take, in seconds."""

    __slots__ = ()

    reply: ClassVar[type | None] = None
    limit: ClassVar[int] = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    protocol: int
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Request[Greeting]):
    """Who answers: for `system status`, and to see whether the helper serves."""

    reply = Greeting


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureBridge(Request[None]):
    """Make `bridge` with `address`/`prefix` as its only address, or bring ours to that."""

    bridge: str
    address: str
    prefix: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveBridge(Request[None]):
    """Remove a bridge of banger's that has no ports any more. Done already: fine."""

    bridge: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTaps(Request[None]):
    """Make taps that the owner may open, as ports of `bridge`. Ours that exist are made anew.

    Ports that are `isolated` reach the bridge itself but not one another. All are made or none.
    """

    bridge: str
    taps: tuple[str, ...]
    isolated: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteTaps(Request[None]):
    """Remove taps; those that are gone already are fine."""

    taps: tuple[str, ...]


class Egress(StrEnum):
    """What a guest may reach beyond the bridge."""

    NONE = "none"
    NAT = "nat"
    ALLOW = "allow"


class Protocol(StrEnum):
    """Of published ports."""

    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A guest's port at `address`:`port` of the host; 0.0.0.0 is all addresses.

    The owner listens there itself for as long as it is published: so the port is the owner's.
    """

    address: str
    port: int
    guest_port: int
    protocol: Protocol = Protocol.TCP


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A guest as the packet filter sees it: the one port, MAC and address it may speak from.

    `allow` are networks, for Egress.ALLOW. An address of the host's is reached if it is one of them
    by itself (/32), not if it lies in one.
    """

    tap: str
    mac: str
    address: str
    egress: Egress = Egress.NONE
    allow: tuple[str, ...] = ()
    published: tuple[Publication, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyPolicy(Request[None]):
    """Replace banger's nftables by what follows from `guests`, all at once.

    Any guest with egress or a port published for other machines turns on IP forwarding on the host;
    nothing turns it off again, because others may have come to need it.
    """

    bridge: str
    address: str
    prefix: int
    guests: tuple[Guest, ...] = ()
    isolated: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovePolicy(Request[None]):
    """Remove banger's nftables, and its rules in Docker's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteResolver(Request[None]):
    """Have systemd-resolved ask `server`:`port` for names under `.vm`, and for nothing else.

    `server` is a loopback address, or the bridge's own.
    """

    bridge: str
    server: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RevertResolver(Request[None]):
    """Take RouteResolver back. A bridge that is gone is fine: its routing went with it."""

    bridge: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    path: str
    major: int
    minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSnapshot(Request[Device]):
    """Join `base` (read only) and `cow` to a block device of `size` bytes, at least the base's.

    Both are the owner's files. `cow` is sparse; all zeros is a new snapshot, else the old goes on.
    What lies beyond the base reads as zeros.
    """

    reply = Device

    name: str
    base: str
    cow: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveSnapshot(Request[None]):
    """Remove the device, and with it the loop devices below. Gone already: fine."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushSnapshot(Request[None]):
    """Have all that was written to the device so far be in the cow file, as fsync(2) does."""

    limit = 600

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    repaired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSnapshot(Request[CheckResult]):
    """Run e2fsck on the device, as the owner, mending what is safe to mend."""

    reply = CheckResult
    limit = 600

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    firecracker: str
    jailer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveBinaries(Request[Binaries]):
    """Find firecracker and jailer, by path or (when empty) where programs are installed.

    Refused unless root alone could have put them there.
    """

    reply = Binaries

    firecracker: str = ""
    jailer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JailFile:
    """A file or directory of the owner's that the VMM sees as `/files/<name>`."""

    name: str
    path: str
    readonly: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class JailDevice:
    """A device made by CreateSnapshot that the VMM sees as `/devices/<name>`."""

    name: str
    snapshot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the VMM's control group: memory in bytes, percent of one processor, tasks.

    `cpu_weight` is its share of processors that are wanted by more than one group, most have 100.
    """

    memory: int
    cpu_percent: int
    tasks: int
    cpu_weight: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process for ever: pids are reused. `start_time` is field 22 of proc_pid_stat(5)."""

    pid: int
    start_time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch(Request[Process]):
    """Start a VMM in a jail of its own; returns when its API socket is there.

    `jail` has never been used before. `run_dir`, a directory of the owner's, is `/run` in the jail:
    the API socket is `<run_dir>/api.sock`, and other sockets belong there too. `console`, a file
    of the owner's, gets the guest's serial port and what the VMM says. On failure nothing is left.
    """

    reply = Process
    limit = 60

    jail: str
    firecracker: str
    jailer: str
    run_dir: str
    console: str
    files: tuple[JailFile, ...] = ()
    devices: tuple[JailDevice, ...] = ()
    limits: Limits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSocket(Request[None]):
    """Give a socket that the owner's VMM made to the owner alone (uid, gid, 0600)."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveJail(Request[None]):
    """Remove a jail's directory. Refused while its VMM lives; gone already: fine."""

    jail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    process: Process | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FindProcess(Request[Found]):
    """The VMM that lives in `jail`."""

    reply = Found

    jail: str


class Signal(StrEnum):
    """What may be sent to a VMM."""

    TERM = "TERM"
    INT = "INT"
    QUIT = "QUIT"
    HUP = "HUP"
    USR1 = "USR1"
    USR2 = "USR2"
    KILL = "KILL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    delivered: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalProcess(Request[Delivery]):
    """Signal exactly the VMM `process` of `jail`; not delivered when it is gone."""

    reply = Delivery

    jail: str
    process: Process
    signal: Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """Everything on this host that carries banger's mark, whoever remembers it."""

    bridges: tuple[str, ...]
    taps: tuple[str, ...]
    snapshots: tuple[str, ...]
    jails: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOwned(Request[Owned]):
    """What reconciliation and the leak audit compare with the store."""

    reply = Owned


OPERATIONS: dict[str, type[Request[object]]] = {
    "hello": Hello,
    "ensure_bridge": EnsureBridge,
    "remove_bridge": RemoveBridge,
    "create_taps": CreateTaps,
    "delete_taps": DeleteTaps,
    "apply_policy": ApplyPolicy,
    "remove_policy": RemovePolicy,
    "route_resolver": RouteResolver,
    "revert_resolver": RevertResolver,
    "create_snapshot": CreateSnapshot,
    "remove_snapshot": RemoveSnapshot,
    "flush_snapshot": FlushSnapshot,
    "check_snapshot": CheckSnapshot,
    "resolve_binaries": ResolveBinaries,
    "launch": Launch,
    "grant_socket": GrantSocket,
    "remove_jail": RemoveJail,
    "find_process": FindProcess,
    "signal_process": SignalProcess,
    "list_owned": ListOwned,
}
