"""`banger vm cp`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import click

from banger.api.errors import CallerError, ErrorCode, PermanentError
from banger.channel.calls import GuestCalls
from banger.channel.frames import Kind
from banger.channel.requests import Get, Got, Put, Written, printable
from banger.channel.trees import TreeWriter, destination, send_file, send_tree
from banger.cli.agent import calls_to
from banger.cli.app import App, pass_app
from banger.cli.render.console import note, out_bytes

_TOLD = 10
_GUEST_PLACE = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*):(.*)", re.DOTALL)


class _GuestPlace(NamedTuple):
    vm: str
    path: str


@click.command("cp")
@click.argument("source")
@click.argument("target")
@click.option("-u", "--user", default="root", metavar="USER", help="As this user of the guest.")
@pass_app
def cp(app: App, source: str, target: str, user: str) -> None:
    """Copy files and directories into a VM or out of it.

    SOURCE or TARGET is VM:PATH, where a relative path begins in the user's home. It goes as with
    cp -r: into a directory that exists, else under the new name. Modes and times are kept. The
    other is a path here, or - for standard input or output; a directory goes out as a tar archive.

    Out of a VM come no links that lead out of what is copied, and no set-user-id bits.

    \b
    Examples:
      banger vm cp ./src dev:
      banger vm cp dev:/var/log/dpkg.log .
      echo nameserver 10.0.0.1 | banger vm cp - dev:/etc/resolv.conf
      banger vm cp dev:/etc - | tar tv
    """
    there, here = _guest_place(source), _guest_place(target)
    if (there is None) == (here is None):
        raise click.UsageError("exactly one of SOURCE and TARGET is VM:PATH")

    client = app.connect()
    if here is not None:
        _copy_in(calls_to(client, here.vm), source, here.path, user)
    elif there is not None and target == "-":
        _print(calls_to(client, there.vm), there.path, user)
    elif there is not None:
        _copy_out(calls_to(client, there.vm), there.path, Path(target), user)


def _guest_place(text: str) -> _GuestPlace | None:
    # A path of this host that looks like one can be written ./like:this.
    match = _GUEST_PLACE.fullmatch(text)
    return _GuestPlace(match[1], match[2]) if match else None


def _copy_in(calls: GuestCalls, source: str, path: str, user: str) -> None:
    if source == "-":
        request = Put(path=path, name="", format="raw", user=user)
        calls.ask(request, Written, source=send_file(sys.stdin.fileno()))
    else:
        place = Path(source)
        if not place.exists():
            raise CallerError(ErrorCode.COPY_REFUSED, f"there is no {source}")

        request = Put(path=path, name=place.resolve().name if source != "/" else "", user=user)
        omissions = _Omissions()
        calls.ask(request, Written, source=send_tree(place, omissions.add))
        omissions.report()


def _print(calls: GuestCalls, path: str, user: str) -> None:
    def sink(kind: Kind, data: bytes) -> None:
        if kind is Kind.STDOUT:
            out_bytes(data)

    omissions = _Omissions()
    omissions.take(calls.ask(Get(path=path, format="auto", user=user), Got, sink=sink))
    omissions.report()


def _copy_out(calls: GuestCalls, path: str, target: Path, user: str) -> None:
    name = os.path.basename(path.rstrip("/")) or "root"  # noqa: PTH119 - it is a guest's path
    folder, name = destination(target, name)
    omissions = _Omissions()
    writer = TreeWriter(folder, name, omissions.add)

    def sink(kind: Kind, data: bytes) -> None:
        if kind is Kind.STDOUT:
            writer.feed(data)

    try:
        got = calls.ask(Get(path=path, user=user), Got, sink=sink)
        if not writer.complete:
            raise PermanentError(ErrorCode.AGENT_PROTOCOL, "the guest's archive has no end")
    finally:
        writer.close()

    omissions.take(got)
    omissions.report()


class _Omissions:
    """What was left out of a copy; the first few are told one by one."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, line: str) -> None:
        self._count += 1
        if self._count <= _TOLD:
            note(line)

    def take(self, got: Got) -> None:
        for name in got.skipped:
            self.add(f"left out {printable(name)!r}: neither a file nor a directory")

    def report(self) -> None:
        if self._count > _TOLD:
            note(f"left out {self._count - _TOLD} more")
