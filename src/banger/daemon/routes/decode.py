"""Requests, read strictly: what is wrong is said in one line that names the field."""

from __future__ import annotations

import re
from typing import NoReturn, TypeVar
from urllib.parse import parse_qsl

import msgspec

from banger.api.errors import CallerError, ErrorCode
from banger.api.models import Request
from banger.api.names import check_name

Wanted = TypeVar("Wanted", bound=Request)

_NAMES = {"name": "VM name", "image": "image name", "snapshot": "snapshot name"}
_SIZES = ("vcpus", "memory", "root_size", "disk_size")
_SHOWN = 80
# "Expected `int` >= 1 - at `$.vcpus`"
_COMPLAINT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<field>[^`]*)`)?", re.DOTALL)


def decode_body(body: bytes, wanted: type[Wanted]) -> Wanted:
    """`body` as a `wanted`; an empty one as if it were `{}`.

    Raises CallerError: invalid_name, invalid_size, else invalid_request.
    """
    try:
        return msgspec.convert(_integral(msgspec.json.decode(body or b"{}")), wanted)
    except msgspec.ValidationError as error:
        _refuse(body, str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"the body is not JSON: {error}") from None


def decode_query(query: bytes, wanted: type[Wanted]) -> Wanted:
    """The query string as a `wanted`. Raises CallerError(invalid_request)."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    values = dict(pairs)
    if len(values) != len(pairs):
        raise _invalid("a query parameter is given twice")

    try:
        return msgspec.convert(values, wanted, strict=False)
    except msgspec.ValidationError as error:
        what, field = _parts(str(error))
        raise _invalid(f"query parameter {field}: {what}" if field else what) from None


def _integral(value: object) -> object:
    """`value` with its whole numbers as int, however they are written: JSON Schema says 1.0 is."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _integral(item) for key, item in value.items()}
        case list():
            return [_integral(item) for item in value]

    return value


def _refuse(body: bytes, complaint: str) -> NoReturn:
    what, field = _parts(complaint)
    if field in _NAMES:
        _refuse_name(body, field)

    if field in _SIZES:
        raise CallerError(
            ErrorCode.INVALID_SIZE,
            f"{field}: {what}",
            hint="vcpus are from 1 to 64, sizes are whole numbers of bytes above zero",
        )

    raise _invalid(f"{field}: {what}" if field else what)


def _refuse_name(body: bytes, field: str) -> NoReturn:
    value = msgspec.json.decode(body)[field]
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    # Shortened with a character that no name has.
    check_name(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…", _NAMES[field])
    raise CallerError(
        ErrorCode.INVALID_NAME, f"{_NAMES[field]} {text} is not text", hint=f'write "{text}"'
    )


def _parts(complaint: str) -> tuple[str, str]:
    match = _COMPLAINT.fullmatch(complaint)
    assert match is not None
    what = " ".join(match["what"].split())
    return what[:1].lower() + what[1 : 4 * _SHOWN], match["field"] or ""


def _invalid(message: str) -> CallerError:
    return CallerError(
        ErrorCode.INVALID_REQUEST, message, hint="GET /openapi.json describes every request"
    )
