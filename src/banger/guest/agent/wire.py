"""The frames of docs/agent-protocol.md, and how a request fails."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Body = dict[str, Any]

VERSION = 1
MAX_PAYLOAD = 32768 - 6
MAX_JSON = 1 << 20
WINDOW = 1 << 20
HELLO, REQUEST, STDIN, EOF, RESIZE, SIGNAL, CREDIT = range(1, 8)
WELCOME, STDOUT, STDERR, STDIN_CLOSED, END, RESET, RESUMED = range(17, 24)
MORE = 0x80
FROM_HOST = frozenset((HELLO, REQUEST, REQUEST | MORE, STDIN, EOF, RESIZE, SIGNAL, CREDIT))
RESYNC_ZEROS = bytes(64)


class AgentError(Exception):
    """A request that fails; `code` is stable, the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def body(self) -> Body:
        return {"error": {"code": self.code, "message": str(self)}}


def frame(kind: int, payload: bytes) -> bytes:
    """Kind, length, payload, and the kind again: what was cut short is never taken for whole."""
    mark = bytes((kind,))
    return b"".join((mark, len(payload).to_bytes(4, "big"), payload, mark))
