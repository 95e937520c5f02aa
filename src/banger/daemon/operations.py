"""Changes under way: each a task of its own, with stages to watch, an end, and a record of both.

An operation does not depend on the client that asked for it: it ends when its body does, when it is
cancelled, or when the daemon stops.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from banger.api.errors import (
    BangerError,
    CallerError,
    ErrorBody,
    ErrorCode,
    ErrorKind,
    TransientError,
)
from banger.api.models import Operation, OperationState, Stage
from banger.daemon.log import current_operation
from banger.daemon.store import Store
from banger.daemon.store.rows import ended

log = logging.getLogger(__name__)

INTERRUPTED = ErrorBody(
    ErrorCode.INTERRUPTED,
    "the daemon stopped before this was finished",
    ErrorKind.TRANSIENT,
    hint="see how things are with: banger vm list, then try again",
)
_CANCELLED = ErrorBody(ErrorCode.CANCELLED, "cancelled on request", ErrorKind.CALLER)


class Progress:
    """What an operation's body tells the world about how far it is."""

    def __init__(self, record: _Record) -> None:
        self._record = record

    @property
    def id(self) -> str:
        """The operation's id."""
        return self._record.operation.id

    def set_target(self, target: str, name: str) -> None:
        """Say what the operation changes, once that is known: its id and its name."""
        self._change(target=target, target_name=name)

    def stage(self, name: str, detail: str | None = None) -> None:
        """End the present stage, if any, and begin the next."""
        now = time.time()
        stages = ended(self._record.operation, OperationState.RUNNING, now).stages
        self._change(stages=(*stages, Stage(name=name, started_at=now, detail=detail)))

    def detail(self, text: str) -> None:
        """Replace the detail of the present stage; without a stage there is nothing to say."""
        *before, present = self._record.operation.stages or (None,)
        if present is not None:
            present = msgspec.structs.replace(present, detail=text)
            self._change(stages=(*before, present))

    def set_made(self, names: tuple[str, ...]) -> None:
        """Say which VMs it made, when there may be several."""
        self._change(made=names)

    def part(self) -> Progress:
        """For one of several things that are done at the same time: its stages are not shown."""
        return _Part(self._record)

    def _change(self, **fields: object) -> None:
        self._record.publish(msgspec.structs.replace(self._record.operation, **fields))


class Unseen(Progress):
    """For what is done without anybody having asked for it."""

    def __init__(self) -> None:
        """Nothing is kept."""

    @property
    def id(self) -> str:
        return "background"

    def stage(self, name: str, detail: str | None = None) -> None:
        """Nothing: nobody looks."""

    def detail(self, text: str) -> None:
        """Nothing, as well."""

    def _change(self, **fields: object) -> None:
        """Nothing, as well."""


class _Part(Progress):
    def _change(self, **fields: object) -> None:
        """Nothing: the others have stages of their own."""


Body = Callable[[Progress], Awaitable[None]]


class Operations:
    """All operations of this daemon, and those of its predecessors that the store remembers."""

    def __init__(self, store: Store, *, log_file: Path | None = None) -> None:
        self._store = store
        self._log_file = log_file
        self._records: dict[str, _Record] = {}
        self._closing = False

    async def start(
        self, kind: str, body: Body, *, target: str | None, target_name: str | None
    ) -> Operation:
        """Begin `body` as an operation and return at once with its first snapshot.

        An error `body` raises becomes the operation's. Raises TransientError(daemon_unreachable)
        when the daemon is about to stop.
        """
        if self._closing:
            raise TransientError(
                ErrorCode.DAEMON_UNREACHABLE, "the daemon is stopping", hint="try again"
            )

        operation = Operation(
            id=f"op-{secrets.token_hex(5)}",
            kind=kind,
            state=OperationState.RUNNING,
            started_at=time.time(),
            target=target,
            target_name=target_name,
        )
        record = _Record(operation)
        self._records[operation.id] = record
        context = contextvars.copy_context()
        context.run(current_operation.set, operation.id)
        record.body = asyncio.create_task(_call(body, Progress(record)), context=context)
        record.keeper = asyncio.create_task(self._keep(record), context=context)
        return operation

    async def get(self, operation_id: str) -> Operation:
        """The operation as it is now. Raises CallerError(unknown_operation)."""
        record = self._records.get(operation_id)
        operation = record.operation if record else await self._store.operation(operation_id)
        if operation is None:
            raise CallerError(
                ErrorCode.UNKNOWN_OPERATION,
                f"there is no operation {operation_id!r}",
                hint="the daemon remembers the latest 1,000: GET /v1/operations lists them",
            )

        return operation

    async def list(self, limit: int = 100) -> list[Operation]:
        """The latest `limit` operations, newest first."""
        found = {operation.id: operation for operation in await self._store.operations(limit)}
        found |= {record.operation.id: record.operation for record in self._records.values()}
        newest = sorted(found.values(), key=lambda operation: operation.started_at, reverse=True)
        return newest[:limit]

    async def wait(self, operation_id: str) -> Operation:
        """The operation once it has ended. Raises CallerError(unknown_operation)."""
        record = self._records.get(operation_id)
        if record is None:
            return await self.get(operation_id)

        await asyncio.wait([record.keeper])
        return record.operation

    async def request_cancel(self, operation_id: str) -> Operation:
        """Begin to cancel the operation's body, and return the operation as it is now.

        One that has ended stays as it is. Raises CallerError(unknown_operation).
        """
        record = self._records.get(operation_id)
        if record is not None:
            record.cancel(OperationState.CANCELLED, _CANCELLED)

        return await self.get(operation_id)

    async def cancel(self, operation_id: str) -> Operation:
        """Cancel the operation's body, let it roll back, and return how it ended.

        One that got to its end in spite of this has succeeded. Raises
        CallerError(unknown_operation).
        """
        await self.request_cancel(operation_id)
        return await self.wait(operation_id)

    async def events(self, operation_id: str) -> AsyncIterator[Operation]:
        """The operation now and after each change, until it has ended.

        A slow reader misses what was between, never the last. Raises
        CallerError(unknown_operation).
        """
        record = self._records.get(operation_id)
        if record is None:
            yield await self.get(operation_id)
            return

        async for operation in record.follow():
            yield operation

    def running(self) -> int:
        """How many operations have not ended."""
        return sum(
            record.operation.state is OperationState.RUNNING for record in self._records.values()
        )

    async def quiet(self) -> None:
        """Return when no operation is under way."""
        while busy := [
            record.keeper
            for record in self._records.values()
            if record.operation.state is OperationState.RUNNING
        ]:
            await asyncio.wait(busy)

    async def interrupt(self, but: Collection[str]) -> None:
        """Interrupt what runs now, but for these kinds, and return when it is rolled back."""
        others = [
            record
            for record in self._records.values()
            if record.operation.kind not in but and record.operation.state is OperationState.RUNNING
        ]
        for record in others:
            record.cancel(OperationState.FAILED, INTERRUPTED)

        if others:
            await asyncio.wait([record.keeper for record in others])

    async def close(self, timeout: float = 10.0) -> None:
        """Start no more; interrupt those that run, and wait up to `timeout` s for their rollback.

        What has not ended by then is recorded as interrupted by the next daemon.
        """
        self._closing = True
        keepers = [record.keeper for record in self._records.values()]
        for record in self._records.values():
            record.cancel(OperationState.FAILED, INTERRUPTED)

        if keepers:
            _, late = await asyncio.wait(keepers, timeout=timeout)
            if late:
                log.error("%d operations were not rolled back within %g s", len(late), timeout)

    async def _keep(self, record: _Record) -> None:
        """Record how far `record` is until its body has ended, and then how it ended."""
        operation = record.operation
        log.info("%s %s: begins", operation.kind, operation.target_name)
        saver = asyncio.create_task(self._save_changes(record))
        await asyncio.wait([record.body])
        saver.cancel()
        final = self._final(record)
        reason = final.error.message if final.error else "done"
        log.info("%s %s: %s, %s", final.kind, final.target_name, final.state, reason)
        saved = await self._save(final)
        record.publish(final)
        if saved:
            del self._records[final.id]

    def _final(self, record: _Record) -> Operation:
        state, error = self._outcome(record)
        if error is not None:
            error = msgspec.structs.replace(error, operation=record.operation.id)

        return ended(record.operation, state, time.time(), error)

    def _outcome(self, record: _Record) -> tuple[OperationState, ErrorBody | None]:
        if record.body.cancelled():
            return record.ending or (OperationState.FAILED, self._unexpected(record))

        error = record.body.exception()
        if error is None:
            return OperationState.SUCCEEDED, None

        if isinstance(error, BangerError):
            return OperationState.FAILED, error.body()

        log.error("unexpected error", exc_info=error)
        return OperationState.FAILED, self._unexpected(record)

    def _unexpected(self, record: _Record) -> ErrorBody:
        where = self._log_file or "the daemon's log"
        return ErrorBody(
            ErrorCode.INTERNAL,
            f"{record.operation.kind} failed for a reason banger does not know",
            ErrorKind.OUTCOME_UNKNOWN,
            hint=f"this is a bug; what is known about it: grep {record.operation.id} {where}",
        )

    async def _save_changes(self, record: _Record) -> None:
        async for operation in record.follow():
            await self._save(operation)

    async def _save(self, operation: Operation) -> bool:
        # A record is worth having, not worth failing for: stopping a VM must work on a full disk.
        try:
            await self._store.save_operation(operation)
        except BangerError as error:
            log.warning("operation %s is not recorded: %s", operation.id, error.message)
            return False

        return True


@dataclass(eq=False)
class _Record:
    """An operation in memory. `ending` is how a cancelled body will have ended."""

    operation: Operation
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ending: tuple[OperationState, ErrorBody] | None = None
    body: asyncio.Task[None] = field(init=False)
    keeper: asyncio.Task[None] = field(init=False)

    def publish(self, operation: Operation) -> None:
        self.operation = operation
        self.changed.set()
        self.changed = asyncio.Event()

    async def follow(self) -> AsyncIterator[Operation]:
        while True:
            operation, changed = self.operation, self.changed
            yield operation
            if operation.state is not OperationState.RUNNING:
                return

            await changed.wait()

    def cancel(self, state: OperationState, error: ErrorBody) -> None:
        # Once only: a second CancelledError would cut the rollback short.
        if self.ending is None:
            self.ending = (state, error)
            self.body.cancel()


async def _call(body: Body, progress: Progress) -> None:
    await body(progress)
