"""Groups that import the module of a command only when that command is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose commands are places: `package.module:attribute`.

    `aliases` are second names; they work, and help and completion do not show them.
    """

    def __init__(
        self,
        name: str | None = None,
        commands: None = None,
        *,
        places: Mapping[str, str],
        aliases: Mapping[str, str] | None = None,
        **attributes: Any,  # noqa: ANN401 - click's own, which only click knows
    ) -> None:
        super().__init__(name, commands, **attributes)
        self._places = places
        self._aliases = aliases or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self._places.get(self._aliases.get(cmd_name, cmd_name))
        if place is None:
            return None

        module, _, attribute = place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command
