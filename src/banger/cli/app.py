"""What the commands of one invocation share: which daemon to talk to and how failing is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from banger.cli.render.console import note

if TYPE_CHECKING:
    from banger.client.client import Client

# What docker, env(1) and nohup(1) return for a failure of their own rather than the command's.
OWN_FAILURE = 125


class App:
    """One invocation. `failure_status` is what banger exits with when it fails itself."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self.host: str | None = None
        self.failure_status = 1

    def connect(self) -> Client:
        """A client for the daemon, which is started if it has to be."""
        from banger.client.autostart import connect

        return connect(self.host, notify=note)


pass_app = click.make_pass_decorator(App)
