"""What a scenario acts on: an installed host, the owner's commands, a census of what is left."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.e2e.harness import Outcome

from smoke.host import Host
from smoke.image import REPOSITORY

INSIDE = "/usr/local/lib/smoke"
_PYTHON = "/opt/banger/bin/python"


class RefusedError(Exception):
    """The root helper said no; the text is its code and what it said."""


class World:
    """An installed host. `dev` owns banger there."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def furnish(self) -> None:
        """Put the programs in that scenarios run there, and the tests whose generators they use."""
        with tempfile.TemporaryDirectory() as made:
            tree = Path(made) / "smoke"
            shutil.copytree(REPOSITORY / "smoke" / "inside", tree)
            shutil.copytree(
                REPOSITORY / "tests" / "unit" / "privileged", tree / "tests" / "unit" / "privileged"
            )
            self.host.put(tree, INSIDE)

        self.host.sh(f"chmod -R a+rX {INSIDE}")

    def run(self, *args: str, user: str = "dev", timeout: float = 300) -> Outcome:
        """`banger ARGS` to its end, as the owner."""
        return self.host.run(["banger", *args], user=user, check=False, timeout=timeout)

    def ok(self, *args: str, timeout: float = 300) -> str:
        """As `run`, for a command that must succeed; its standard output, stripped."""
        outcome = self.run(*args, timeout=timeout)
        assert outcome.status == 0, outcome
        return outcome.text

    def json(self, *args: str) -> Any:
        """What a reading command says with `--json`."""
        return json.loads(self.ok(*args, "--json"))

    def ask(self, operation: str, **args: object) -> Any:
        """A request of the owner's to the root helper; its result. Raises RefusedError."""
        words = ["/usr/bin/python3", f"{INSIDE}/call.py", operation, json.dumps(args)]
        reply = json.loads(self.host.run(words, user="dev").text)
        if "error" in reply:
            raise RefusedError(f"{reply['error']['code']}: {reply['error']['message']}")

        return reply["result"]

    def refused(self, operation: str, **args: object) -> None:
        """A request of the owner's that the root helper must refuse."""
        try:
            result = self.ask(operation, **args)
        except RefusedError as error:
            result = str(error)

        assert str(result).startswith(("refused", "bad_request")), (operation, args, result)

    def inside(self, program: str, *args: str, user: str = "dev", timeout: float = 600) -> Any:
        """Run a program of `smoke/inside` that prints JSON, with banger's modules at hand."""
        words = ["env", f"PYTHONPATH={INSIDE}", _PYTHON, f"{INSIDE}/{program}", *args]
        return json.loads(self.host.run(words, user=user, timeout=timeout).text)

    def census(self) -> set[str]:
        """Everything VMs could leave behind, a line each."""
        return set(self.host.run([f"{INSIDE}/census.sh"]).text.splitlines())

    def serves(self) -> None:
        """Wait until the daemon answers."""
        answers = "until banger system status >/dev/null 2>&1; do sleep 0.5; done"
        self.host.sh(answers, user="dev", timeout=120)

    def bridge_address(self) -> str:
        """The host's address on the guests' bridge."""
        return self.host.sh("ip -4 -o addr show br-fc | sed 's/.* inet \\([0-9.]*\\).*/\\1/'")

    def restart_services(self) -> None:
        self.host.run(["sudo", "banger", "system", "restart", "--quiet"], user="dev")

    def unit_pid(self, unit: str) -> int:
        """The main process of a service."""
        return int(self.host.sh(f"systemctl show --property MainPID --value {unit}"))
