"""What a request says, checked."""

from __future__ import annotations

from banger.guest.agent.wire import AgentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from banger.guest.agent.wire import Body

    T = TypeVar("T")


def required(request: Body, name: str, kind: type[T]) -> T:
    value = request.get(name)
    if kind is float and type(value) is int:
        value = float(value)

    # Exactly that type, because in Python True is a number.
    if type(value) is not kind:
        problem = "is missing" if value is None else "is not what it should be"
        raise AgentError("bad_request", f"{name} {problem}")

    return value


def field(request: Body, name: str, default: T) -> T:
    """Of the type of `default`; a null counts as left out."""
    return default if request.get(name) is None else required(request, name, type(default))


def strings(request: Body, name: str) -> list[str]:
    values: list[str] = field(request, name, [])
    if not all(type(value) is str and "\0" not in value for value in values):
        raise AgentError("bad_request", f"{name} is not a list of strings")

    return values


def objects(request: Body, name: str) -> list[Body]:
    values = required(request, name, list)
    if not all(isinstance(value, dict) for value in values):
        raise AgentError("bad_request", f"{name} is not a list of objects")

    return values


def path_field(request: Body, name: str = "path") -> str:
    path = required(request, name, str)
    if not path.startswith("/") or "\0" in path:
        raise AgentError("bad_request", f"{name} is not an absolute path")

    return path


def seconds_field(request: Body, name: str) -> float:
    """Zero when left out."""
    seconds = field(request, name, 0.0)
    if not 0 <= seconds < 1e9:
        raise AgentError("bad_request", f"{name} is not a number of seconds")

    return seconds


def hexadecimal(request: Body, name: str) -> bytes:
    try:
        return bytes.fromhex(required(request, name, str))
    except ValueError:
        raise AgentError("bad_request", f"{name} is not hexadecimal") from None
