"""`banger completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from banger.cli.render.console import out

_VARIABLE = "_BANGER_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that teaches your shell to complete banger's commands.

    \b
    Examples:
      eval "$(banger completion bash)"       # in ~/.bashrc
      eval "$(banger completion zsh)"        # in ~/.zshrc
      banger completion fish > ~/.config/fish/completions/banger.fish
    """
    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"there is no completion for {shell}")

    out(script(context.find_root().command, {}, "banger", _VARIABLE).source())
