"""Who builds images: this process, or on an installed host a service that may do what it takes.

The service (`serving.py`) is started by a connection to its socket, for one request: a line of
JSON, `Asked`, answered by lines of `Said`. It ends when it has answered, or when the connection's
other end says no more, having removed what it made.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import msgspec

from banger.api.errors import BangerError, ErrorBody, ErrorCode, PermanentError, from_body
from banger.api.models import Image
from banger.host import runner
from banger.host.paths import Paths, ensure_private
from banger.image.build import WORK, build_image, sweep, works
from banger.image.isolation import no_namespace
from banger.image.kernels import KernelStore
from banger.image.progress import Report
from banger.image.recipe import Recipe
from banger.image.store import ImageStore

log = logging.getLogger(__name__)

# Longer than any line that is sent; asyncio's own limit is shorter than a list of packages.
_LONGEST_LINE = 2**20
# A build that is called off removes gigabytes before it ends.
_ENDING_SECONDS = 60.0


class Builder(Protocol):
    """What makes images and cleans up after builds that were killed."""

    async def build(self, recipe: Recipe, report: Report) -> Image:
        """See `build_image`."""

    async def sweep(self) -> None:
        """See `build.sweep`."""


class OwnBuilder:
    """Builds in this process."""

    def __init__(self, paths: Paths) -> None:
        self._images = ImageStore(paths)
        self._kernels = KernelStore(paths)
        self._cache = paths.cache

    async def build(self, recipe: Recipe, report: Report) -> Image:
        return await build_image(recipe, self._images, self._kernels, self._cache, report)

    async def sweep(self) -> None:
        await sweep(self._images, self._kernels, self._cache)


class Asked(msgspec.Struct, frozen=True):
    """Build `recipe`, or without one see whether building works, and sweep."""

    recipe: Recipe | None = None


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That a request is read now, a stage and news of it, something for the log (`level` is
    logging's), or how it ended.
    """

    ready: bool = False
    stage: str | None = None
    detail: str | None = None
    log: str | None = None
    level: int = logging.INFO
    image: Image | None = None
    error: ErrorBody | None = None
    done: bool = False


class ServiceBuilder:
    """Has a service at `socket` build, and follows it."""

    def __init__(self, paths: Paths, socket: Path) -> None:
        self._paths = paths
        self._socket = socket

    async def build(self, recipe: Recipe, report: Report) -> Image:
        image = (await self._ask(Asked(recipe), report)).image
        assert image is not None
        return image

    async def sweep(self) -> None:
        # What a build leaves belongs to many users; the rest is this one's.
        if await asyncio.to_thread(lambda: any(works(self._paths.cache).glob(f"{WORK}*"))):
            await self.probe()
        else:
            await asyncio.to_thread(ImageStore(self._paths).sweep)
            await asyncio.to_thread(KernelStore(self._paths).sweep)

    async def probe(self) -> None:
        """Sweep in any case. Raises what a build would before it began."""
        await self._ask(Asked(), lambda stage, detail: None)

    async def _ask(self, asked: Asked, report: Report) -> Said:
        runner.require("newuidmap")
        for directory in (self._paths.images, self._paths.kernels, self._paths.cache):
            ensure_private(directory)

        complaint = "it said nothing"
        async with self._connection() as (reader, writer):
            async for line in _lines(reader):
                said = _understand(line)
                if said is None:
                    complaint = line.decode(errors="replace").strip()
                    log.warning("the build service: %s", complaint)
                elif said.ready:
                    # Not before: what a service that cannot begin complains of would be lost with
                    # a request that it does not read (unix(7), ECONNRESET).
                    writer.write(msgspec.json.encode(asked) + b"\n")
                elif said.error is not None:
                    raise from_body(said.error)
                elif said.done:
                    return said
                elif said.log is not None:
                    log.log(said.level, "%s", said.log)
                elif said.stage is not None:
                    report(said.stage, said.detail)

        raise _ended(complaint)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket, limit=_LONGEST_LINE)
        except OSError as error:
            raise PermanentError(
                ErrorCode.IMAGE_BUILD_FAILED,
                f"no build service answers at {self._socket}: {error.strerror}",
                hint="sudo systemctl restart banger-build.socket",
            ) from None
        try:
            yield reader, writer
        finally:
            # Also when cancelled: it is over when the service has cleaned up.
            await asyncio.shield(_hang_up(reader, writer))


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    # A service that ends without having read what was asked resets the connection.
    with contextlib.suppress(ConnectionError):
        async for line in reader:
            yield line


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        writer.write_eof()
        async with asyncio.timeout(_ENDING_SECONDS):
            while await reader.read(_LONGEST_LINE):
                pass

    writer.close()


def _understand(line: bytes) -> Said | None:
    """What the service said; None for a line of a program's that is not it."""
    try:
        return msgspec.json.decode(line, type=Said)
    except msgspec.MsgspecError:
        return None


def _ended(complaint: str) -> BangerError:
    if "uid" in complaint or "unshare" in complaint:
        return no_namespace(getpass.getuser(), complaint)

    return PermanentError(
        ErrorCode.IMAGE_BUILD_FAILED,
        f"the build service ended before the build did: {complaint}",
        hint="sudo journalctl -u 'banger-build@*' has the rest",
    )
