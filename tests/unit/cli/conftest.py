"""The command line in this process, against a fake daemon; guests are shells on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from tests.unit.client.fake_daemon import FakeDaemon, make_vm

from banger.api.models import SSHEndpoint
from banger.cli.main import run

# Does on this machine what the real one does in the guest, and writes down how it was called.
SSH = """#!/bin/sh
[ "$FAKE_SSH" = refuse ] && refuse=1
log= last= quiet=
printf '%s\\0' "$@" >> "{calls}"
printf '\\n' >> "{calls}"
while [ $# -gt 0 ]; do
    case $1 in -E) log=$2; shift;; -n) exec </dev/null;; esac
    last=$1
    shift
done
if [ -n "$refuse" ]; then
    echo "ssh: connect to host 127.0.0.1 port 1: Connection refused" >> "$log"
    exit 255
fi
[ "$last" = 127.0.0.1 ] || [ "$last" = -tt ] && last="exec sh"
sh -c "$last"
status=$?
echo "debug1: client_input_channel_req: channel 0 rtype exit-status reply 0" >> "$log"
exit $status
"""


class Ended(NamedTuple):
    """How a command line ended."""

    status: int
    out: str
    err: str


Banger = Callable[..., Ended]


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "s") as daemon:
        monkeypatch.setenv("BANGER_HOST", str(daemon.path))
        daemon.add(make_vm("aaaa00000000", "dev"), make_vm("bbbb00000000", "web"))
        yield daemon


@pytest.fixture
def banger(daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]) -> Banger:
    """Run `banger` with these words."""

    def call(*words: str) -> Ended:
        status = run(words)
        out, err = capfd.readouterr()
        return Ended(status, out, err)

    return call


@pytest.fixture
def ssh_calls(tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake ssh on PATH; what it was called with is in this file, a line for each call."""
    programs = tmp_path / "bin"
    programs.mkdir()
    calls = tmp_path / "ssh-calls"
    program = programs / "ssh"
    program.write_text(SSH.format(calls=calls))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    endpoint = SSHEndpoint(
        host="127.0.0.1",
        port=40001,
        user="root",
        identity_file=str(tmp_path / "a key%"),
        known_hosts_file=str(tmp_path / "known"),
        host_key_alias="aaaa00000000",
    )
    answer = msgspec.json.encode(endpoint)
    for ref in ("dev", "aaaa00000000", "000000000002"):
        daemon.replies["GET", f"/v1/vms/{ref}/ssh"] = lambda _: answer

    return calls
