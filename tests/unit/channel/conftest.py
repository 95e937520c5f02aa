"""The real agent, running on this host behind the sockets a VM's ports would be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger.channel.calls import GuestCalls
from banger.channel.serial import PORTS, SerialChannel
from banger.guest.bundle import agent_source

# Any Python the agent is to run on may be named here.
INTERPRETER = os.environ.get("BANGER_TEST_AGENT_PYTHON", sys.executable)


@pytest.fixture(scope="session")
def agent_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agent") / "agent.py"
    path.write_text(agent_source())
    return path


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


@pytest.fixture
def run_dir(agent_file: Path) -> Iterator[Path]:
    """A run directory with the ports of a guest that runs the agent. Short, as socket paths are."""
    with tempfile.TemporaryDirectory(prefix="ba") as name:
        folder = Path(name)
        listener = folder / "listener"
        for number in range(PORTS):
            (folder / f"agent{number}.sock").symlink_to(listener)

        # What is ignored here must not be ignored in programs.
        nohup = ["env", "--ignore-signal=HUP,INT,QUIT"]
        argv = [
            *nohup,
            INTERPRETER,
            "-I",
            "-S",
            "-B",
            "-W",
            "error",
            str(agent_file),
            str(listener),
        ]
        agent = subprocess.Popen(argv, stderr=subprocess.PIPE)
        try:
            while not listens(listener):
                assert agent.poll() is None
                time.sleep(0.005)

            yield folder
        finally:
            agent.kill()
            _, complaints = agent.communicate()

        assert complaints == b""


@pytest.fixture
def channel(run_dir: Path) -> SerialChannel:
    return SerialChannel(run_dir)


@pytest.fixture
def calls(channel: SerialChannel) -> GuestCalls:
    return GuestCalls(channel)
