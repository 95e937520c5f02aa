"""Following changes to their end, and making the same change to several VMs at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from banger.api.errors import BangerError, CallerError, ErrorCode
from banger.api.models import VM, Operation
from banger.cli.app import App
from banger.cli.render.console import note, out_json
from banger.cli.render.errors import report
from banger.cli.render.progress import Progress, choose_progress, took
from banger.client.client import Client


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to each VM, the word for a VM it was done to, and whether Ctrl-C takes it back.

    After a change that `removes` the VM there is nothing to show of it but its name.
    """

    ask: Callable[[Client, str], Operation]
    done: str
    undo: bool = False
    removes: bool = False


class Removed(msgspec.Struct, frozen=True):
    """What `--json` says of a VM, or of anything else, that is gone."""

    id: str
    name: str
    deleted: bool = True


def ask(request: Callable[[], Operation]) -> Operation:
    """Send `request` and return what it began, for `follow`, until which Ctrl-C is kept back.

    Between the daemon's beginning and our hearing of it there is nothing yet to cancel.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return request()
    except BaseException:
        _listen()
        raise


def follow(
    client: Client, operation: Operation, progress: Progress, *, undo: bool = True
) -> Operation:
    """Follow `operation` to its end, drawn by `progress`. Raises the error it ended with.

    When interrupted with `undo`, the operation is cancelled and followed until it is undone.
    """
    try:
        _listen()
        return client.wait(operation, progress.update, tick=progress.tick)
    except KeyboardInterrupt:
        progress.close(None)
        if undo:
            _cancel(client, operation)
        else:
            note(f"banger: {operation.kind} goes on without you; see: banger vm list")

        raise
    except BangerError as error:
        progress.close(None)
        error.operation = error.operation or operation.id
        raise


def _listen() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def change_all(app: App, refs: Sequence[str], change: Change, *, quiet: bool) -> int:
    """Make `change` to every VM of `refs`: all are asked first, then followed in the order given.

    A failure is reported and does not keep the others from being changed. Returns 1 if there was
    one.
    """
    client = app.connect()
    failures = 0
    started: list[tuple[VM, Operation]] = []
    for ref, vm in _resolve(client, refs):
        try:
            if isinstance(vm, BangerError):
                raise vm

            started.append((vm, ask(partial(change.ask, client, vm.id))))
        except BangerError as error:
            report(error, as_json=app.json, about=ref)
            failures += 1

    progress = choose_progress(quiet=quiet)
    for vm, operation in started:
        try:
            ended = follow(client, operation, progress, undo=change.undo)
            progress.close(f"{vm.name} {change.done} in {took(ended)}")
            if app.json:
                out_json(Removed(vm.id, vm.name) if change.removes else client.vm(vm.id))
        except BangerError as error:
            report(error, as_json=app.json, about=vm.name)
            failures += 1

    return 1 if failures else 0


def remove_all(
    app: App,
    names: Sequence[str],
    request: Callable[[Client, str], Operation],
    *,
    quiet: bool,
) -> int:
    """Remove each of `names`, which are no VMs, one after the other.

    A failure is reported and does not keep the others. Returns 1 if there was one.
    """
    client = app.connect()
    progress = choose_progress(quiet=quiet)
    failures = 0
    for name in dict.fromkeys(names):
        try:
            ended = follow(client, ask(partial(request, client, name)), progress, undo=False)
            progress.close(f"{name} deleted in {took(ended)}")
            if app.json:
                out_json(Removed(ended.target or "", name))
        except BangerError as error:
            report(error, as_json=app.json, about=name)
            failures += 1

    return 1 if failures else 0


def _resolve(client: Client, refs: Sequence[str]) -> list[tuple[str, VM | BangerError]]:
    """The VM of each ref, or why there is none; each VM once, where it was first named."""
    found: dict[str, tuple[str, VM | BangerError]] = {}
    for ref in refs:
        try:
            vm = client.vm(ref)
            found.setdefault(vm.id, (ref, vm))
        except CallerError as error:
            found.setdefault(f"error {ref}", (ref, error))

    return list(found.values())


def _cancel(client: Client, operation: Operation) -> None:
    note("banger: cancelling; press Ctrl-C again to leave that to the daemon")
    try:
        client.cancel(operation.id)
        client.wait(operation)
    except BangerError as error:
        if error.code is ErrorCode.CANCELLED:
            note(f"banger: {operation.kind} was cancelled, nothing is left of it")
        else:
            report(error, as_json=False)
    else:
        note(f"banger: too late, {operation.kind} was done already")
