"""The command line in this process, against a fake daemon; guests are shells on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.unit.client.fake_daemon import FakeDaemon, make_vm

from banger.api.models import SSHEndpoint
from banger.cli.main import run

# Does on this machine what the real one does in the guest, and writes down how it was called.
SSH = """#!{python}
import json, os, signal, subprocess, sys
words = sys.argv[1:]
log = words[words.index("-E") + 1]
names = [word[8:].split() for word in words if word.startswith("SendEnv=")]
with open("{calls}", "a") as calls:
    env = {{name: os.environ[name] for name in sum(names, [])}}
    print(json.dumps({{"argv": words, "env": env, "pid": os.getpid()}}), file=calls)

if os.environ.get("FAKE_SSH") == "refuse":
    print("ssh: connect to host 127.0.0.1 port 1: Connection refused", file=open(log, "a"))
    sys.exit(255)

if "-n" in words:
    sys.stdin = open(os.devnull)

command = words[-1] if words[-1].startswith("exec ") else "echo login shell; exec sh"
unblock = lambda: signal.pthread_sigmask(signal.SIG_SETMASK, [])
status = subprocess.run(["sh", "-c", command], stdin=sys.stdin, preexec_fn=unblock).returncode
print("debug1: client_input_channel_req: channel 0 rtype exit-status reply 0", file=open(log, "a"))
sys.exit(status)
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


class Calls(NamedTuple):
    """How the fake ssh was called: its words, and the variables it was told to send."""

    file: Path

    def read(self) -> list[dict[str, Any]]:
        text = self.file.read_text() if self.file.exists() else ""
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def ssh(tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A fake ssh on PATH, for the guests of `daemon`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    calls = tmp_path / "ssh-calls"
    program = programs / "ssh"
    program.write_text(SSH.format(calls=calls, python=sys.executable))
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

    return Calls(calls)
