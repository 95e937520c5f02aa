"""An operation while it is under way, drawn on standard error.

On a terminal a block of stages that is redrawn and, when all went well, replaced by one line;
elsewhere one line for each finished stage.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Protocol

from banger.api.models import Operation, OperationState, Stage
from banger.cli.render.console import DIM, note, paint

_NOT_DONE = (OperationState.FAILED, OperationState.CANCELLED)


class Progress(Protocol):
    """Gets every snapshot of one operation after the other.

    `tick` is after how many quiet seconds it wants the newest snapshot again.
    """

    tick: float | None

    def update(self, operation: Operation) -> None:
        """Show a snapshot."""

    def close(self, summary: str | None) -> None:
        """The operation has ended or is no longer watched; `summary` is the line to leave."""


class QuietProgress:
    """Shows nothing."""

    tick: float | None = None

    def update(self, operation: Operation) -> None:
        pass

    def close(self, summary: str | None) -> None:
        pass


class PlainProgress:
    """One line for each finished stage, for logs and pipes."""

    tick: float | None = None

    def __init__(self) -> None:
        self._told = 0

    def update(self, operation: Operation) -> None:
        done = [stage for stage in operation.stages if stage.finished_at is not None]
        if operation.state in _NOT_DONE:
            # It ended, but it was not finished: the error says more about it.
            done = done[:-1]

        for stage in done[self._told :]:
            note(f"{_owner(operation)}{_words(stage)} ({_seconds(stage):.1f} s)")

        self._told = len(done)

    def close(self, summary: str | None) -> None:
        self._told = 0
        if summary:
            note(summary)


class LiveProgress:
    """The stages as a block that is redrawn in place."""

    tick: float | None = 0.2

    def __init__(self) -> None:
        self._height = 0

    def update(self, operation: Operation) -> None:
        columns, rows = os.get_terminal_size(2)
        # What has scrolled off the top cannot be redrawn.
        stages = operation.stages[-max(1, rows - 2) :]
        lines = [_line(operation, stage, columns) for stage in stages]
        self._write(self._erase() + "".join(f"{line}\n" for line in lines))
        self._height = len(lines)
        if operation.state in _NOT_DONE:
            self._height = 0

    def close(self, summary: str | None) -> None:
        if summary:
            self._write(self._erase() + summary + "\n")

        self._height = 0

    def _erase(self) -> str:
        return f"\x1b[{self._height}A\x1b[J" if self._height else ""

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def choose_progress(*, quiet: bool = False) -> Progress:
    """What suits standard error."""
    if quiet:
        return QuietProgress()

    if os.isatty(2) and os.environ.get("TERM") != "dumb":
        return LiveProgress()

    return PlainProgress()


def took(operation: Operation) -> str:
    """How long an operation that has ended took: `4.2 s`."""
    end = operation.finished_at or time.time()
    return f"{max(0.0, end - operation.started_at):.1f} s"


def _line(operation: Operation, stage: Stage, columns: int) -> str:
    text = f"  {_owner(operation)}{_words(stage)}"[: max(1, columns - 10)]
    line = f"{text:<{min(48, columns - 10)}} {_seconds(stage):5.1f} s"
    return line if stage.finished_at is None else paint(line, DIM, 2)


def _owner(operation: Operation) -> str:
    return f"{operation.target_name}: " if operation.target_name else ""


def _words(stage: Stage) -> str:
    return f"{stage.name}: {stage.detail}" if stage.detail else stage.name


def _seconds(stage: Stage) -> float:
    return max(0.0, (stage.finished_at or time.time()) - stage.started_at)
