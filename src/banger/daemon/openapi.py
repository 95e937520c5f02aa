"""The OpenAPI 3.1 document, made from the route tables and the wire models."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec

from banger import __version__
from banger.api.errors import ErrorCode, ErrorKind
from banger.api.models import ErrorReply
from banger.api.names import NAME_PATTERN
from banger.daemon.routes.endpoint import JSON, Endpoint
from banger.daemon.routes.reply import VERSION_HEADER, status_of

_REFS = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"{(\w+)}")
_COMMON = (ErrorCode.INVALID_REQUEST, ErrorCode.INTERNAL)

_PATH_SCHEMAS = {
    "vm": {"type": "string", "pattern": NAME_PATTERN, "description": "Name, id or prefix of one"},
    "image": {"type": "string", "pattern": NAME_PATTERN},
    "kernel": {"type": "string", "pattern": NAME_PATTERN},
    "snapshot": {"type": "string", "pattern": NAME_PATTERN, "description": "Name or id"},
    "key": {"type": "string", "pattern": "^[0-9a-f]{1,64}$"},
    "operation": {"type": "string", "pattern": "^op-[0-9a-f]{10}$"},
}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The description of `endpoints`, as a JSON value."""
    schemas = _Schemas(endpoints)
    ordered = sorted(endpoints, key=lambda endpoint: (endpoint.path, endpoint.method))
    return {
        "openapi": "3.1.0",
        "info": {"title": "banger", "version": __version__, "license": {"name": "MIT"}},
        "servers": [{"url": "http://banger", "description": "The daemon's unix socket"}],
        "paths": {
            path: {found.method.value.lower(): _operation(found, schemas) for found in group}
            for path, group in groupby(ordered, key=lambda endpoint: endpoint.path)
        },
        "components": {
            "schemas": schemas.components,
            "headers": {"Version": {"schema": {"type": "string"}, "required": True}},
        },
    }


class _Schemas:
    """The schema of every type the endpoints speak of."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._types = list(_types(endpoints))
        self._schemas, components = msgspec.json.schema_components(self._types, ref_template=_REFS)
        self.components = {name: _undented(schema) for name, schema in components.items()}

    def __getitem__(self, kind: object) -> dict[str, Any]:
        return dict(self._schemas[self._types.index(kind)])


def _undented(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"description": inspect.cleandoc(schema.get("description", ""))}


def _types(endpoints: Sequence[Endpoint]) -> Iterable[object]:
    yield ErrorReply
    for endpoint in endpoints:
        yield endpoint.answer
        if endpoint.accepts is not None:
            yield endpoint.accepts


def _operation(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "summary": endpoint.summary,
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint)],
        "responses": {
            str(endpoint.status): _response("Done", endpoint.media, schemas[endpoint.answer]),
            **_errors(endpoint, schemas),
        },
    }
    if endpoint.accepts is not None:
        content = {JSON: {"schema": schemas[endpoint.accepts]}}
        described["requestBody"] = {"required": False, "content": content}

    return described


def _operation_id(endpoint: Endpoint) -> str:
    words = re.findall(r"\w+", endpoint.path.removeprefix("/v1"))
    return "_".join((endpoint.method.value.lower(), *words))


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _PATH_SCHEMAS[name]}
        for name in _PARAMETER.findall(endpoint.path)
    ]


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [
        {
            "name": field.encode_name,
            "in": "query",
            "required": field.required,
            "schema": msgspec.json.schema(field.type),
        }
        for field in msgspec.structs.fields(endpoint.query)
    ]


def _errors(endpoint: Endpoint, schemas: _Schemas) -> dict[str, Any]:
    schema = schemas[ErrorReply]
    by_status: dict[int, list[str]] = {}
    for code in (*_COMMON, *endpoint.errors):
        by_status.setdefault(status_of(code, ErrorKind.CALLER), []).append(code.value)

    named = {
        str(status): _response(" or ".join(codes), JSON, schema)
        for status, codes in sorted(by_status.items())
    }
    return {**named, "default": _response("Any other error", JSON, schema)}


def _response(description: str, media: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {VERSION_HEADER: {"$ref": "#/components/headers/Version"}},
        "content": {media: {"schema": schema}},
    }
