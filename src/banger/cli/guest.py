"""Commands that end with what to run in the guest, after `--`."""

from __future__ import annotations

import click

from banger.cli.app import OWN_FAILURE, App


class GuestCommand(click.Command):
    """A command that takes the guest's words after `--` as its parameter `command`.

    Its exit status is the guest's, so a failure of banger's own gets a status that few use.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ensure_object(App).failure_status = OWN_FAILURE
        cut = args.index("--") if "--" in args else len(args)
        ctx.params["command"] = tuple(args[cut + 1 :])
        if cut + 1 == len(args) and not ctx.resilient_parsing:
            raise click.UsageError("no command follows --", ctx)

        ctx.allow_extra_args = True
        extra = super().parse_args(ctx, args[:cut])
        if extra and not ctx.resilient_parsing:
            raise click.UsageError(f"{extra[0]!r} is too much: the guest's command follows --", ctx)

        return extra

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]
