"""The OpenAPI document is true: Schemathesis asks by it, and judges the answers by it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import msgspec
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import unsupported_method
from tests.unit.daemon.fakes import fake_api

from banger.daemon.openapi import document
from banger.daemon.routes import all_endpoints
from banger.daemon.services import Services


class Loopback(threading.Thread):
    """The API over fake services on a TCP port, because Schemathesis speaks no unix sockets."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self._serving = threading.Event()
        self._ended: asyncio.Event
        self.loop: asyncio.AbstractEventLoop
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        assert self._serving.wait(30)
        return self

    def __exit__(self, *exc: object) -> None:
        self.loop.call_soon_threadsafe(self._ended.set)
        self.join()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        async with fake_api(self._directory) as api:
            config = uvicorn.Config(
                api.app, host="127.0.0.1", port=0, log_config=None, lifespan="off", ws="none"
            )
            config.load()
            server = uvicorn.Server(config)
            server.lifespan = config.lifespan_class(config)
            await server.startup()
            port = server.servers[0].sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            self._serving.set()
            await self._ended.wait()
            await server.shutdown()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Loopback(tmp_path_factory.mktemp("api")) as server:
        yield server.url


def described() -> dict[str, Any]:
    """The document without a daemon behind it: the tables alone make it."""
    parts = ("vms", "snapshots", "templates", "images", "operations")
    nothing = cast("Services", SimpleNamespace(**dict.fromkeys(parts)))
    made = document(all_endpoints(nothing, lambda: None))
    return cast("dict[str, Any]", msgspec.json.decode(msgspec.json.encode(made)))


async def test_what_is_served_is_what_the_tables_say(tmp_path: Path) -> None:
    async with fake_api(tmp_path) as api:
        served = (await api.ask("GET", "/openapi.json")).json(dict[str, Any])

    own = served["paths"].pop("/openapi.json")
    assert set(own) == {"get"}
    assert served == described()


def test_operation_ids_are_unique() -> None:
    paths = described()["paths"].values()
    ids = [operation["operationId"] for methods in paths for operation in methods.values()]
    assert len(ids) == len(set(ids))


schema = schemathesis.openapi.from_dict(described())


@schema.parametrize()
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_described(case: schemathesis.Case[Any], url: str) -> None:
    # DELETE of this path is that of /v1/templates/{key}.
    overlaps = [unsupported_method] if case.path == "/v1/templates/prune" else []
    case.call_and_validate(base_url=url, excluded_checks=overlaps)
