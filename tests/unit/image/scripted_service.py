"""The build service with a builder that does as the first argument says; notes in the second."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from banger.api.errors import ErrorCode, TransientError
from banger.api.models import Image
from banger.image import serving
from banger.image.progress import Report
from banger.image.recipe import Recipe

IMAGE = Image(
    id="i1", name="tiny", kernel="k1", created_at=1.0, root_size=1, work_size=1, allocated_bytes=1
)


class Scripted:
    def __init__(self, mode: str, notes: Path) -> None:
        self._mode = mode
        self._notes = notes

    async def build(self, recipe: Recipe, report: Report) -> Image:
        self._notes.write_text("began")
        report("resolve packages", None)
        report("resolve packages", f"for {recipe.name}")
        logging.getLogger("tools").warning('building failed:\n{"image": null}')
        print("a tool's own words", file=sys.stderr, flush=True)
        if self._mode == "fail":
            raise TransientError(ErrorCode.IMAGE_BUILD_FAILED, "no network", hint="check it")

        if self._mode == "break":
            raise ValueError("not on purpose")

        if self._mode == "hang":
            await self._hang()

        return IMAGE

    async def sweep(self) -> None:
        self._notes.write_text("swept")

    async def _hang(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            self._notes.write_text("cleaned up")


if __name__ == "__main__":
    sys.exit(serving.main(Scripted(sys.argv[1], Path(sys.argv[2]))))
