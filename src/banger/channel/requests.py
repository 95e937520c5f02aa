"""What can be asked of a guest's agent, and what it answers (docs/agent-protocol.md, "Requests").

Answers are a guest's and checked field by field. Sizes are bytes, times seconds.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from banger.api.errors import BangerError, CallerError, ErrorCode, OutcomeUnknown, PermanentError

Text = Annotated[str, Meta(max_length=4096)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Seconds = Annotated[float, Meta(ge=0)]

# Shown to people: no escape sequences for their terminals, no second line.
_MESSAGE_LENGTH = 300


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="request"):
    """Base of what is asked; its tag is the request's name."""


class Exec(Request, frozen=True, tag="exec"):
    """Run a program as `user`, the login shell without `argv`.

    `cwd` is the user's home when empty. With `tty` it gets a terminal, its standard error with it.
    After `timeout` seconds it is ended. With `detach` no stream is joined to it and it is not
    waited for. With a `token`, which nobody used before, it can be carried on on another stream
    after a reset.
    """

    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    user: str = "root"
    tty: bool = False
    rows: int = 24
    columns: int = 80
    timeout: float = 0.0
    detach: bool = False
    token: str = ""


class Resume(Request, frozen=True, tag="resume"):
    """Carry the `Exec` with that `token` on on this stream.

    `stdout` and `stderr` are how many bytes of each have been received, the credits how many more
    may be sent. There is no answer if the agent has no such program.
    """

    token: str
    stdout: int
    stderr: int
    stdout_credit: int
    stderr_credit: int


class Get(Request, frozen=True, tag="get"):
    """Send what is at `path`, which begins in the user's home if it is relative.

    As a `tar`, as the bytes of one file (`raw`), or with `auto` the latter of a file and the former
    of a directory.
    """

    path: str
    format: Literal["tar", "raw", "auto"] = "tar"
    user: str = "root"


class Put(Request, frozen=True, tag="put"):
    """Write what comes to `path`, as cp(1) does: as `name` into it if it is a directory.

    `mode` is that of a `raw` file. A relative path begins in the user's home.
    """

    path: str
    name: str
    format: Literal["tar", "raw"] = "tar"
    mode: int = 0o644
    user: str = "root"


class Health(Request, frozen=True, tag="health"):
    """How the guest is; with `system` also what systemd says, which takes it longer.

    With `other_than`, a boot id, it is answered in another boot of the guest only: of one that has
    it there is no answer.
    """

    system: bool = False
    other_than: str | None = None


class Ports(Request, frozen=True, tag="ports"):
    """What listens."""


class Stats(Request, frozen=True, tag="stats"):
    """What the guest uses."""


class Network(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The one IPv4 address of an interface, its default route, and perhaps its hardware address."""

    interface: str
    address: str
    prefix: int
    gateway: str = ""
    mac: str = ""


class HostKey(msgspec.Struct, frozen=True, kw_only=True):
    """An ssh host key: a private key in OpenSSH's format and its public line."""

    private: str
    public: str


class File(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A small file of the guest, replaced as a whole."""

    path: str
    text: str
    mode: int = 0o644


class Identity(Request, frozen=True, tag="identity"):
    """Become another guest: all that is given, before anything else is served, and then thaw. It is
    answered with `GuestHealth`.

    `entropy` is 32 to 512 random bytes in hexadecimal, `clock` nanoseconds since 1970.
    """

    entropy: str | None = None
    clock: int | None = None
    hostname: str | None = None
    machine_id: str | None = None
    dns: tuple[str, ...] | None = None
    files: tuple[File, ...] | None = None
    networks: tuple[Network, ...] | None = None
    ssh_host_key: HostKey | None = None


class Freeze(Request, frozen=True, tag="freeze"):
    """Stop all writing to the file systems mounted at `paths`, and all processes if asked.

    Processes of the agent and of init go on. Everything thaws after `timeout` seconds (10 when
    left out) unless it was thawed before.
    """

    paths: tuple[str, ...] = ()
    processes: bool = False
    timeout: float = 0.0


class Thaw(Request, frozen=True, tag="thaw"):
    """Undo `Freeze`."""


class Sync(Request, frozen=True, tag="sync"):
    """Write everything to the disks."""


class PowerOff(Request, frozen=True, tag="poweroff"):
    """Write everything to the disks, answer, and end: `clean` stops services, `fast` kills them."""

    how: Literal["clean", "fast"] = "fast"


class Reboot(Request, frozen=True, tag="reboot"):
    """As `PowerOff`, but begin again."""

    how: Literal["clean", "fast"] = "fast"


def takes_input(request: Request) -> bool:
    """Whether the request has a standard input, which then has to have an end."""
    return isinstance(request, Put) or (isinstance(request, Exec) and not request.detach)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what is answered. `frames` is how many of the host's frames the agent had taken."""

    frames: int = 0


class _Failure(msgspec.Struct, frozen=True):
    code: str
    message: str = ""


class _Failed(Answer, frozen=True):
    error: _Failure | None = None


class Exited(Answer, frozen=True):
    """How a program ended: with an exit `code`, or by a `signal`; `pid` is of a detached one."""

    code: Annotated[int, Meta(ge=0, le=255)] | None = None
    signal: Annotated[int, Meta(ge=1, le=64)] | None = None
    timed_out: bool = False
    pid: int | None = None

    @property
    def status(self) -> int:
        """As a shell has it: 128 and the signal's number for a program ended by one."""
        return self.code or 0 if self.signal is None else 128 + self.signal


class Got(Answer, frozen=True):
    """A `Get` is complete; what is neither file, directory nor link was `skipped`."""

    skipped: tuple[Text, ...] = ()
    size: Count = 0
    mode: Annotated[int, Meta(ge=0, le=0o7777)] = 0o644


class Written(Answer, frozen=True):
    """A `Put` is complete, and this is where it went."""

    path: Text


class GuestHealth(Answer, frozen=True):
    """How the guest is.

    `clock` is nanoseconds since 1970; `frozen` names what `Freeze` has stopped.
    """

    version: int
    boot_id: Annotated[str, Meta(pattern=r"^[0-9a-f-]{36}$")]
    uptime: Seconds
    clock: int
    hostname: Text
    frozen: tuple[Text, ...] = ()
    system: Text | None = None


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """A socket that waits for connections or datagrams."""

    protocol: Literal["tcp", "udp"]
    address: Annotated[str, Meta(pattern=r"^[0-9a-f:.]{2,45}$")]
    port: Annotated[int, Meta(ge=0, le=65535)]
    pid: int | None = None
    process: Text | None = None


class Listeners(Answer, frozen=True):
    """All of them."""

    ports: tuple[Listener, ...]


class DiskUsage(msgspec.Struct, frozen=True, kw_only=True):
    """A file system of the guest."""

    path: Text
    size: Count
    available: Count


class GuestStats(Answer, frozen=True):
    """What the guest uses."""

    uptime: Seconds
    load: tuple[float, float, float]
    memory_total: Count
    memory_available: Count
    swap_total: Count
    swap_free: Count
    cpu_busy: Seconds
    cpu_idle: Seconds
    processes: Count
    disks: tuple[DiskUsage, ...]


class Done(Answer, frozen=True):
    """There is nothing to say but that it is done."""


A = TypeVar("A", bound=Answer)

# The caller's own doing; everything else is the guest's.
_CALLERS = frozenset(
    ("bad_request", "unknown_user", "no_such_path", "is_a_directory", "not_a_file", "unsupported")
)


def request_text(request: Request) -> bytes:
    """The JSON of `request`."""
    try:
        return msgspec.json.encode(request)
    except UnicodeEncodeError:
        # Words of a command line that are no UTF-8 (PEP 383); JSON has an escape for those.
        return json.dumps(msgspec.to_builtins(request)).encode()


def read_answer(text: bytes, kind: type[A]) -> A:
    """The answer in `text`, a JSON text of an agent's.

    Raises CallerError(agent_refused) and PermanentError(agent_failed) when it tells of a failure,
    PermanentError(agent_protocol) when it makes no sense.
    """
    try:
        failed = msgspec.json.decode(text, type=_Failed)
        if failed.error is None:
            return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise nonsense(str(error)) from None

    raise _told(failed.error)


def frames_taken(text: bytes) -> int:
    """How many frames of the host's the agent says it took; -1 if that cannot be told."""
    try:
        return msgspec.json.decode(text, type=Answer).frames
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return -1


def nonsense(reason: str) -> PermanentError:
    """The error for a guest that does not speak the protocol."""
    return PermanentError(
        ErrorCode.AGENT_PROTOCOL,
        f"the guest's agent makes no sense: {printable(reason)}",
        hint="restart the VM: its agent comes anew from this banger",
    )


def stream_lost(reason: str) -> OutcomeUnknown:
    """The error for a stream that ended before the answer."""
    return OutcomeUnknown(
        ErrorCode.STREAM_LOST,
        f"the stream into the guest ended before the answer: {reason}",
        hint="look whether the VM still runs: banger vm list",
    )


def printable(text: str, length: int = _MESSAGE_LENGTH) -> str:
    """`text` of a guest's for people's eyes and terminals: one line, nothing that controls."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:length])


def _told(failure: _Failure) -> BangerError:
    message = printable(failure.message) or "the guest's agent gives no reason"
    if failure.code in _CALLERS:
        return CallerError(ErrorCode.AGENT_REFUSED, message)

    return PermanentError(ErrorCode.AGENT_FAILED, message)
