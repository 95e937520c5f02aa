"""Makes docs/cli.md from the commands: `python -m banger.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from banger.cli.main import cli

_INTRODUCTION = """\
# The command line

Made from the commands' own help by `python -m banger.cli.reference > docs/cli.md`; a test keeps it
current.

Results are on standard output, everything said about them on standard error. With `--json` results
are JSON, and so is an error: `{"error": {"code", "message", "kind", "hint", "operation"}}`.
Commands that change several VMs print one JSON document for each, in the order they were named.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | it failed, for some of the VMs named or for all |
| 2 | the command line makes no sense |
| 125 | `vm run`, `vm ssh`: banger itself failed |
| 130 | interrupted with Ctrl-C |
| other | `vm run`, `vm ssh`: the guest command's own; 128 + n if signal n ended it |

| variable | meaning |
|---|---|
| `BANGER_HOST` | socket of the daemon to talk to, as with `--host` |
| `BANGER_HOME` | directory for everything, instead of the XDG directories |
| `BANGER_DEBUG` | set to 1: show where an error comes from |
| `NO_COLOR` | set to anything: no colours |
"""


def reference() -> str:
    """The whole of docs/cli.md."""
    return "\n".join([_INTRODUCTION, *_sections(cli, "banger", None)])


def commands(
    command: click.Command, path: str, parent: click.Context | None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """`command` and all below it, with the words that call it."""
    context = click.Context(
        command,
        parent,
        path.rpartition(" ")[2],
        terminal_width=80,
        max_content_width=80,
        help_option_names=["-h", "--help"],
    )
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, f"{path} {name}", context)


def _sections(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
    for words, each, context in commands(command, path, parent):
        yield f"## {words}\n\n```\n{each.get_help(context)}\n```\n"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
