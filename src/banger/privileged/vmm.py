"""VMMs: launched into a jail, found in it, signalled."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import time

from banger.privileged import jail, jailer, scope
from banger.privileged.faults import Fault, FaultCode, failed, refused
from banger.privileged.gates import binaries, names, paths, processes
from banger.privileged.ops import (
    API_SOCKET,
    Binaries,
    Delivery,
    FindProcess,
    Found,
    Launch,
    Limits,
    Process,
    ResolveBinaries,
    SignalProcess,
)
from banger.privileged.site import Site

_JAILER = "jailer"
_START_SECONDS = 15.0
_POLL_MILLISECONDS = 2
_LONGEST_COMPLAINT = 300
_TAIL = 4096


def resolve_binaries(_: Site, request: ResolveBinaries) -> Binaries:
    """See ResolveBinaries."""
    return Binaries(
        firecracker=binaries.program(request.firecracker, processes.PROGRAM),
        jailer=binaries.program(request.jailer, _JAILER),
    )


def launch(site: Site, request: Launch) -> Process:
    """See Launch."""
    _check(request)
    binaries.program(request.firecracker, processes.PROGRAM)
    binaries.program(request.jailer, _JAILER)
    if _socket_there(site, f"{request.run_dir}/{API_SOCKET}"):
        raise Fault(FaultCode.BUSY, f"{request.run_dir} has a socket of an earlier VMM's")

    with contextlib.ExitStack() as held, contextlib.ExitStack() as undo:
        jail.prepare(site, request, undo, held)
        with paths.opened(request.console, site.roots, site.owner_uid, os.O_RDONLY) as console:
            said = os.fstat(console).st_size
            child = jailer.start(site, request, undo)
            if child is None or not _comes_up(site, request, child):
                raise failed(f"the VMM ended at once: {_last_line(console, said)}")

        undo.pop_all()
    return child


def find_process(site: Site, request: FindProcess) -> Found:
    """See FindProcess."""
    return Found(process=processes.find(site, names.jail_id(request.jail)))


def signal_process(site: Site, request: SignalProcess) -> Delivery:
    """See SignalProcess."""
    number = signal.Signals[f"SIG{request.signal}"]
    name = names.jail_id(request.jail)
    return Delivery(delivered=processes.send(site, name, request.process, number))


def _check(request: Launch) -> None:
    names.jail_id(request.jail)
    for entry in request.files + request.devices:
        names.file_name(entry.name)

    names.distinct(tuple(file.name for file in request.files), "file")
    names.distinct(tuple(device.name for device in request.devices), "device")
    for device in request.devices:
        names.snapshot_name(device.snapshot)

    if request.limits is not None and not _reasonable(request.limits):
        raise refused("limits out of range")


def _reasonable(limits: Limits) -> bool:
    return (
        2**20 <= limits.memory <= 2**50
        and 1 <= limits.cpu_percent <= 100_000
        and 1 <= limits.tasks <= 100_000
        and 1 <= limits.cpu_weight <= 10_000
    )


def _comes_up(site: Site, request: Launch, child: Process) -> bool:
    """Give the VMM its control group while it starts, before any guest runs; False when it ends."""
    try:
        scope.confine(request.jail, child.pid, request.limits)
    except Fault:
        if processes.process(child.pid) == child:
            raise

        return False

    return _answers(site, request, child)


def _answers(site: Site, request: Launch, child: Process) -> bool:
    """Wait for the API socket; False when the VMM has ended."""
    deadline = time.monotonic() + _START_SECONDS
    try:
        descriptor = os.pidfd_open(child.pid)
    except ProcessLookupError:
        return False
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        while time.monotonic() < deadline:
            if ended.poll(_POLL_MILLISECONDS):
                return False

            if _socket_there(site, f"{request.run_dir}/{API_SOCKET}"):
                return True
    finally:
        os.close(descriptor)
    raise Fault(FaultCode.TIMEOUT, f"the VMM made no API socket within {_START_SECONDS:g} s")


def _socket_there(site: Site, path: str) -> bool:
    try:
        with paths.pinned(path, site.roots, site.owner_uid) as pin:
            return stat.S_ISSOCK(os.fstat(pin).st_mode)
    except Fault as fault:
        if fault.code is FaultCode.NOT_FOUND:
            return False

        raise


def _last_line(console: int, start: int) -> str:
    """What the jailer or the VMM said last; a panic of Rust's ends with a note on backtraces."""
    size = os.fstat(console).st_size
    text = os.pread(console, _TAIL, max(start, size - _TAIL)).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if not line.startswith("note: ")]
    said = next(filter(None, reversed(lines)), "no word")
    return "".join(filter(str.isprintable, said))[:_LONGEST_COMPLAINT]
