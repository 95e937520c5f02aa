"""`bangerd` as installed: one command, two services that share nothing but their name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from banger.daemon import main

ASK = """
import sys
from banger.privileged import helper
helper.main = lambda: print(*sorted(sys.modules)) or 0
from banger.daemon.entry import main
sys.argv = ["bangerd", "--root-helper"]
sys.exit(main())
"""


def test_the_root_helper_loads_nothing_of_the_daemons() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "banger.privileged.dispatch" in loaded
    assert not {name.partition(".")[0] for name in loaded} & {"msgspec", "starlette", "uvicorn"}
    assert not {name for name in loaded if name.startswith(("banger.api", "banger.host"))}


def test_being_the_root_helper_goes_with_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["--root-helper", "--system"])
    assert "goes with no other option" in capsys.readouterr().err
