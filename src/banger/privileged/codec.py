"""Requests and replies as JSON: one object on one line, and nothing in it that was not asked for.

-> {"version": 1, "operation": "op-7f3a", "op": "remove_jail", "args": {"jail": "..."}}
<- {"result": ...}  or  {"error": {"code": "refused", "message": "..."}}
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from banger.privileged.faults import Fault, FaultCode
from banger.privileged.ops import OPERATIONS, PROTOCOL, Request

MAX_MESSAGE = 512 * 1024
"""Bytes of a request or a reply, its newline included."""
MAX_TEXT = 4096
MAX_ITEMS = 1024
_MAX_NUMBER = 2**62

_OPERATION_ID = re.compile(r"[A-Za-z0-9_.-]{0,64}", re.ASCII)
_NAMES = {request: name for name, request in OPERATIONS.items()}


@dataclass(frozen=True, slots=True)
class Call:
    """A request together with the id of the operation it is made for, which is for the log."""

    operation: str
    name: str
    request: Request[object]


def name_of(request: Request[object]) -> str:
    """What `request` is called on the wire and in the log."""
    return _NAMES[type(request)]


def encode_call(request: Request[object], operation: str) -> bytes:
    """One line for the helper."""
    assert is_dataclass(request)
    body = {
        "version": PROTOCOL,
        "operation": operation,
        "op": name_of(request),
        "args": asdict(request),
    }
    return json.dumps(body).encode() + b"\n"


def decode_call(line: bytes) -> Call:
    """Raises Fault(bad_request) unless `line` is exactly a request."""
    message = _object(_parse(line), "the request")
    if set(message) != {"version", "operation", "op", "args"}:
        raise _bad("a request has version, operation, op and args")

    if message["version"] != PROTOCOL:
        raise _bad(f"this helper speaks version {PROTOCOL}")

    operation = _text(message["operation"], "operation")
    if not _OPERATION_ID.fullmatch(operation):
        raise _bad("operation is not an id")

    name = _text(message["op"], "op")
    if name not in OPERATIONS:
        raise _bad("no such op")

    return Call(operation, name, _record(OPERATIONS[name], message["args"], "args"))


def encode_result(result: object) -> bytes:
    """The line that answers a call that was done."""
    body = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    return json.dumps({"result": body}).encode() + b"\n"


def encode_fault(fault: Fault) -> bytes:
    """The line that answers a call that was not."""
    body = {"code": fault.code, "message": fault.message[:MAX_TEXT]}
    return json.dumps({"error": body}).encode() + b"\n"


def decode_reply(line: bytes, reply: type | None) -> object:
    """The result, of type `reply`. Raises the Fault that the helper sent, or bad_request."""
    message = _object(_parse(line), "the reply")
    if set(message) == {"error"}:
        error = _object(message["error"], "error")
        raise Fault(_choice(FaultCode, error.get("code"), "code"), str(error.get("message", "")))

    if set(message) != {"result"}:
        raise _bad("a reply has a result or an error")

    return convert(NoneType if reply is None else reply, message["result"], "result")


def convert(hint: Any, value: object, where: str) -> Any:
    """`value`, as JSON gives it, as the type `hint`; `where` is for the error."""
    if get_origin(hint) is UnionType:
        inner, _ = get_args(hint)
        return None if value is None else convert(inner, value, where)

    if get_origin(hint) is tuple:
        return _items(get_args(hint)[0], value, where)

    if is_dataclass(hint):
        return _record(hint, value, where)

    if hint is str:
        return _text(value, where)

    if issubclass(hint, StrEnum):
        return _choice(hint, value, where)

    # A bool is an int to Python, and 1 is not a bool.
    if type(value) is not hint or (hint is int and abs(value) > _MAX_NUMBER):  # type: ignore[arg-type]
        raise _bad(f"{where} is not {hint.__name__}")

    return value


def _parse(line: bytes) -> object:
    if len(line) > MAX_MESSAGE:
        raise _bad("the message is too long")

    try:
        return json.loads(line, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _bad("the message is not JSON") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key twice")

    return dict(pairs)


def _no_constant(_: str) -> object:
    raise ValueError("NaN and Infinity are not JSON")


def _record(cls: Any, value: object, where: str) -> Any:
    given = _object(value, where)
    hints = _hints(cls)
    required = {f.name for f in fields(cls) if f.default is MISSING}
    if unknown := set(given) - set(hints):
        raise _bad(f"{where} has an unknown field {min(unknown)[:64]!r}")

    if missing := required - set(given):
        raise _bad(f"{where} lacks {min(missing)}")

    return cls(**{key: convert(hints[key], given[key], f"{where}.{key}") for key in given})


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _items(hint: Any, value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise _bad(f"{where} is not a list of at most {MAX_ITEMS}")

    return tuple(convert(hint, item, f"{where}[{number}]") for number, item in enumerate(value))


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _bad(f"{where} is not an object")

    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise _bad(f"{where} is not a plain text of at most {MAX_TEXT} characters")

    return value


def _choice(choices: Any, value: object, where: str) -> Any:
    if value not in list(choices):
        raise _bad(f"{where} is none of {', '.join(choices)}")

    return choices(value)


def _bad(message: str) -> Fault:
    return Fault(FaultCode.BAD_REQUEST, message)
