"""One error tree for every layer.

    BangerError
    ├── CallerError      the request is wrong; nothing was done
    ├── PermanentError   the request is fine, this host or its state cannot serve it
    ├── TransientError   trying again is safe and may work
    └── OutcomeUnknown   it may or may not have happened; look before trying again

Every error carries a stable `code` (docs/troubleshooting.md lists them), one line that says what
was wrong, and a `hint`: the next thing to type. One handler at each edge (the daemon's app, the
CLI's main) turns it into a reply or a line on stderr.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ErrorKind(StrEnum):
    """What the caller may conclude from a failure."""

    CALLER = "caller"
    PERMANENT = "permanent"
    TRANSIENT = "transient"
    OUTCOME_UNKNOWN = "outcome_unknown"


class ErrorCode(StrEnum):
    """Stable machine-readable names; adding one is compatible, renaming one is not."""

    INVALID_REQUEST = "invalid_request"
    INVALID_NAME = "invalid_name"
    INVALID_SIZE = "invalid_size"
    NOT_FOUND = "not_found"
    UNKNOWN_VM = "unknown_vm"
    UNKNOWN_IMAGE = "unknown_image"
    UNKNOWN_KERNEL = "unknown_kernel"
    UNKNOWN_SNAPSHOT = "unknown_snapshot"
    UNKNOWN_TEMPLATE = "unknown_template"
    UNKNOWN_OPERATION = "unknown_operation"
    AMBIGUOUS_VM = "ambiguous_vm"
    NAME_TAKEN = "name_taken"
    PORT_TAKEN = "port_taken"
    NETWORK_EXHAUSTED = "network_exhausted"
    NETWORK_COLLISION = "network_collision"
    VM_BUSY = "vm_busy"
    VM_RUNNING = "vm_running"
    VM_NOT_RUNNING = "vm_not_running"
    DISK_TOO_SMALL = "disk_too_small"
    INSUFFICIENT_MEMORY = "insufficient_memory"
    INSUFFICIENT_DISK = "insufficient_disk"
    CONFIG_INVALID = "config_invalid"
    UNSUPPORTED = "unsupported"
    UNSUPPORTED_HOST = "unsupported_host"
    HYPERVISOR_MISSING = "hypervisor_missing"
    TOOL_MISSING = "tool_missing"
    TOOL_FAILED = "tool_failed"
    LAUNCH_FAILED = "launch_failed"
    SAVE_FAILED = "save_failed"
    RESTORE_FAILED = "restore_failed"
    GUEST_TIMEOUT = "guest_timeout"
    AGENT_UNREACHABLE = "agent_unreachable"
    AGENT_BUSY = "agent_busy"
    AGENT_REFUSED = "agent_refused"
    AGENT_FAILED = "agent_failed"
    AGENT_PROTOCOL = "agent_protocol"
    STREAM_LOST = "stream_lost"
    COPY_REFUSED = "copy_refused"
    IMAGE_IN_USE = "image_in_use"
    IMAGE_CORRUPT = "image_corrupt"
    IMAGE_BUILD_FAILED = "image_build_failed"
    SOCKET_INSECURE = "socket_insecure"
    STATE_CORRUPT = "state_corrupt"
    DAEMON_UNREACHABLE = "daemon_unreachable"
    DAEMON_START_FAILED = "daemon_start_failed"
    HELPER_UNREACHABLE = "helper_unreachable"
    HELPER_REFUSED = "helper_refused"
    HELPER_BUSY = "helper_busy"
    NEEDS_ROOT = "needs_root"
    NOT_INSTALLED = "not_installed"
    SSH_FAILED = "ssh_failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    HOST_ENDING = "host_ending"
    INTERNAL = "internal"

    @classmethod
    def _missing_(cls, value: object) -> ErrorCode:
        # A newer daemon may know codes that this client does not.
        return cls.INTERNAL


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it travels: in API replies, operations and `--json` output."""

    code: ErrorCode
    message: str
    kind: ErrorKind
    hint: str | None = None
    operation: str | None = None


class BangerError(Exception):
    """Base of everything banger raises on purpose; raise one of the four kinds below."""

    kind = ErrorKind.PERMANENT

    def __init__(self, code: ErrorCode, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.operation: str | None = None

    def body(self) -> ErrorBody:
        """The wire form of this error."""
        return ErrorBody(self.code, self.message, self.kind, self.hint, self.operation)


class CallerError(BangerError):
    """The request is wrong; nothing was done and nothing was lost."""

    kind = ErrorKind.CALLER


class PermanentError(BangerError):
    """The request is well-formed, but this host or its state cannot serve it."""

    kind = ErrorKind.PERMANENT


class TransientError(BangerError):
    """Nothing is left behind; the same request may succeed when repeated."""

    kind = ErrorKind.TRANSIENT


class OutcomeUnknown(BangerError):  # noqa: N818 - it names what is not known, as its siblings do
    """The effect may or may not have happened; look at the state before repeating."""

    kind = ErrorKind.OUTCOME_UNKNOWN


_KINDS: dict[ErrorKind, type[BangerError]] = {
    kind.kind: kind for kind in (CallerError, PermanentError, TransientError, OutcomeUnknown)
}


def from_body(body: ErrorBody) -> BangerError:
    """Rebuild the exception a peer sent, so that callers handle local and remote errors alike."""
    error = _KINDS[body.kind](body.code, body.message, hint=body.hint)
    error.operation = body.operation
    return error
