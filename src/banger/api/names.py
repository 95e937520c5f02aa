"""VM, image and kernel names: the rule, and names made up for those who give none."""

from __future__ import annotations

import re

from banger.api.errors import CallerError, ErrorCode

# RFC 1123 section 2.1 labels, lower case only, because a VM's name is also its host name.
# Python's $ also matches before a final newline, JSON Schema's does not: hence the lookahead.
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)"
_NAME = re.compile(NAME_PATTERN)

_ADJECTIVES = (
    "amber", "bold", "brave", "brisk", "bright", "calm", "clear", "clever", "cosy", "crisp",
    "deft", "eager", "fair", "fleet", "fond", "gentle", "glad", "grand", "happy", "hardy",
    "jolly", "keen", "kind", "light", "lively", "lucky", "mellow", "merry", "mild", "neat",
    "nimble", "noble", "plain", "proud", "quick", "quiet", "rapid", "ready", "royal", "sharp",
    "shiny", "smart", "snug", "solid", "spry", "steady", "sunny", "swift", "tidy", "warm",
)  # fmt: skip
_ANIMALS = (
    "badger", "bear", "beaver", "bison", "crane", "crow", "deer", "dove", "eagle", "falcon",
    "ferret", "finch", "fox", "gecko", "goose", "hare", "hawk", "heron", "ibex", "jay",
    "koala", "lark", "lemur", "lion", "llama", "lynx", "marten", "mole", "moose", "newt",
    "otter", "owl", "panda", "pike", "puffin", "quail", "raven", "robin", "seal", "shrew",
    "stoat", "stork", "swan", "tapir", "tern", "tiger", "toad", "trout", "vole", "wren",
)  # fmt: skip


def check_name(name: str, what: str = "VM name") -> str:
    """Return `name` unchanged if it is a lower-case DNS label of 1 to 63 characters.

    Raises CallerError(invalid_name); nothing is normalised, so what was typed is what is shown.
    """
    if _NAME.match(name):
        return name
    raise CallerError(
        ErrorCode.INVALID_NAME,
        f"{what} {name!r} is not valid",
        hint="use 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends",
    )


def make_name() -> str:
    """A random name such as `calm-otter-3f`, one of 640,000; callers retry one that is taken."""
    # Importing it costs 4 ms, and every command of the CLI imports this module.
    import secrets

    suffix = secrets.token_hex(1)
    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_ANIMALS)}-{suffix}"
