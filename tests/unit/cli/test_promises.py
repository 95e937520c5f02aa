"""What holds for the whole command line: examples, current docs, light imports, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.client.fake_daemon import FakeDaemon

from banger.cli.main import cli, run
from banger.cli.reference import commands, reference

ROOT = Path(__file__).parents[3]
BANGER = Path(sys.executable).with_name("banger")
ALL = [(path, command) for path, command, _ in commands(cli, "banger", None)]

# Each costs more than ten milliseconds, or is of use only to commands that do something.
HEAVY = {
    "asyncio", "concurrent", "dataclasses_json", "http", "logging", "multiprocessing", "qemu",
    "rich", "ssl", "starlette", "subprocess", "tempfile", "uvicorn",
}  # fmt: skip


@pytest.mark.parametrize(("path", "command"), ALL, ids=[path for path, _ in ALL])
def test_every_command_has_a_first_line_and_an_example(path: str, command: object) -> None:
    words = getattr(command, "help", None) or ""
    assert words.splitlines()[0].endswith(".")
    assert "Example" in words
    assert path in words.partition("Example")[2]


def test_the_docs_are_what_the_commands_say() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), (
        "run: .venv/bin/python -m banger.cli.reference > docs/cli.md"
    )


def test_listing_vms_imports_nothing_heavy(daemon: FakeDaemon) -> None:
    program = (
        "import sys; from banger.cli.main import run; status = run(['vm', 'list']);"
        "print(*sys.modules); sys.exit(status)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    modules = ended.stdout.splitlines()[-1].split()
    assert "banger.cli.vm.list" in modules
    assert {module.partition(".")[0] for module in modules} & HEAVY == set()
    others = {"banger.cli.vm.run", "banger.cli.image", "banger.host.runner", "banger.cli.params"}
    assert set(modules) & others <= {"banger.cli.params"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    assert f"_BANGER_COMPLETE={shell}_complete" in capfd.readouterr().out


def complete(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BANGER],
        env=os.environ
        | {
            "_BANGER_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        | env,
        capture_output=True,
        text=True,
    )


def test_names_of_vms_are_completed(daemon: FakeDaemon) -> None:
    assert complete("banger", "vm", "stop", "d").stdout == "plain,dev\n"
    assert complete("banger", "vm", "ssh", "w").stdout == "plain,web\n"


def test_completion_is_silent_and_starts_nothing_without_a_daemon(tmp_path: Path) -> None:
    ended = complete("banger", "vm", "stop", "d", BANGER_HOST="", BANGER_HOME=str(tmp_path / "h"))
    assert (ended.stdout.strip(), ended.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_output_nobody_reads_is_no_error(daemon: FakeDaemon) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([BANGER, "vm", "list"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert ended.stderr == b""


def test_a_full_disk_is_one_line(daemon: FakeDaemon) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run([BANGER, "vm", "list"], stdout=full, stderr=subprocess.PIPE)

    assert ended.returncode == 1
    assert ended.stderr.startswith(b"banger: No space left on device\n")


def test_closed_streams_are_survived(daemon: FakeDaemon) -> None:
    ended = subprocess.run(
        ["sh", "-c", f"exec {BANGER} vm list <&- >&- 2>&-"],
        check=False,
    )
    assert ended.returncode == 0
