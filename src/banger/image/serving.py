"""The build service: one request on standard input, one build, and the end.

systemd starts it for a connection (docs/privileges.md), as root of a user namespace.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable

import msgspec

from banger.api.errors import BangerError, ErrorBody, ErrorCode, PermanentError
from banger.host.paths import system_paths
from banger.image.builder import Asked, Builder, OwnBuilder, Said
from banger.image.isolation import isolation

_INPUT, _OUTPUT = 0, 1
_PIECE = 2**16

log = logging.getLogger(__name__)


def main(builder: Builder | None = None) -> int:
    """Serve the connection on standard input and output; returns the exit status."""
    os.umask(0o077)
    handler = _ToWhoeverAsked()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    done = asyncio.run(_serve(builder or OwnBuilder(system_paths())))
    return 0 if done else 1


class _ToWhoeverAsked(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _say(Said(log=self.format(record), level=record.levelno))


async def _serve(builder: Builder) -> bool:
    """Do what is asked; whether it was done."""
    _say(Said(ready=True))
    asked = _read_request()
    work = asyncio.ensure_future(_perform(builder, asked))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, work.cancel)
    watch = threading.Thread(target=_call_at_end, args=(loop, work.cancel), daemon=True)
    watch.start()
    try:
        _say(await work)
    except asyncio.CancelledError:
        return False
    except BangerError as error:
        _say(Said(error=error.body()))
        return False
    except Exception as error:
        # The edge: who asked is told in one line, and the log has the rest.
        log.exception("unexpected error")
        _say(Said(error=_unexpected(error)))
        return False

    return True


async def _perform(builder: Builder, asked: Asked) -> Said:
    if asked.recipe is not None:
        image = await builder.build(asked.recipe, lambda stage, news: _say(_news(stage, news)))
        return Said(image=image, done=True)

    await isolation()
    await builder.sweep()
    return Said(done=True)


def _news(stage: str, detail: str | None) -> Said:
    return Said(stage=stage, detail=detail)


def _unexpected(error: Exception) -> ErrorBody:
    message = f"the image could not be built: {str(error) or type(error).__name__}"
    return PermanentError(ErrorCode.IMAGE_BUILD_FAILED, message).body()


def _read_request() -> Asked:
    """The first line. Nothing follows it, so nothing is lost by reading in pieces."""
    line = b""
    while not line.endswith(b"\n") and (piece := os.read(_INPUT, _PIECE)):
        line += piece

    return msgspec.json.decode(line, type=Asked)


def _call_at_end(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    while os.read(_INPUT, _PIECE):
        pass

    loop.call_soon_threadsafe(call)


def _say(said: Said) -> None:
    line = msgspec.json.encode(said) + b"\n"
    try:
        while line:
            line = line[os.write(_OUTPUT, line) :]
    except OSError:
        # Nobody listens any more; the end of the input says so too.
        return
