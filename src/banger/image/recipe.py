"""Recipes: what goes into an image, as TOML. docs/images.md explains every field."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import resources

import msgspec

from banger.api.errors import BangerError, CallerError, ErrorCode
from banger.api.names import check_name
from banger.api.sizes import GIB, format_size, parse_size

MIN_ROOT_SIZE = 2 * GIB
MIN_WORK_SIZE = GIB // 4
MAX_SIZE = 1024 * GIB

_BUILTIN = resources.files("banger.image") / "recipes"
# Debian Policy Manual, section 5.6.1.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+\Z")
_SUITE = re.compile(r"[a-z][a-z0-9-]*\Z")


class _Fields(msgspec.Struct, forbid_unknown_fields=True):
    """A recipe as it is written."""

    name: str
    suite: str = "bookworm"
    packages: list[str] = []
    kernel_package: str = "linux-image-cloud-amd64"
    root_size: str = "8G"
    work_size: str = "8G"
    documentation: bool = False


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What goes into an image. Sizes are bytes: of the root file system and of the work seed's.

    Without `documentation`, manuals, translations and package documents other than copyright
    files are left out.
    """

    name: str
    suite: str
    packages: tuple[str, ...]
    kernel_package: str
    root_size: int
    work_size: int
    documentation: bool = False


def parse_recipe(text: str) -> Recipe:
    """Read a recipe. Raises CallerError(invalid_request) that names every mistake it can tell."""
    try:
        fields = msgspec.convert(tomllib.loads(text), _Fields)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise _invalid(_in_words(error)) from None
    mistakes = list(_mistakes(fields))
    if mistakes:
        raise _invalid("; ".join(mistakes))
    return Recipe(
        name=fields.name,
        suite=fields.suite,
        packages=tuple(dict.fromkeys(fields.packages)),
        kernel_package=fields.kernel_package,
        root_size=parse_size(fields.root_size),
        work_size=parse_size(fields.work_size),
        documentation=fields.documentation,
    )


def builtin_names() -> list[str]:
    """The names of the recipes that come with banger."""
    files = (item.name for item in _BUILTIN.iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def is_builtin(name: str) -> bool:
    """Whether banger comes with a recipe of that name."""
    return name in builtin_names()


def builtin_recipe(name: str) -> Recipe:
    """The recipe `name` that comes with banger. Raises CallerError(unknown_image)."""
    if not is_builtin(name):
        raise CallerError(
            ErrorCode.UNKNOWN_IMAGE,
            f"there is no built-in recipe {name!r} (there is: {', '.join(builtin_names())})",
            hint="write one (docs/images.md) and build it with: banger image build --recipe FILE",
        )
    return parse_recipe((_BUILTIN / f"{name}.toml").read_text())


def _mistakes(fields: _Fields) -> Iterator[str]:
    yield from _name_mistakes(fields.name)
    if not _SUITE.match(fields.suite):
        yield f"suite: {fields.suite!r} is not a suite's code name like bookworm"
    for package in (*fields.packages, fields.kernel_package):
        if not _PACKAGE.match(package):
            yield f"packages: {package!r} is not a package name"

    yield from _size_mistakes("root_size", fields.root_size, MIN_ROOT_SIZE)
    yield from _size_mistakes("work_size", fields.work_size, MIN_WORK_SIZE)


def _name_mistakes(name: str) -> Iterator[str]:
    try:
        check_name(name, "image name")
    except BangerError as error:
        yield f"name: {error.message}"


def _size_mistakes(field: str, text: str, smallest: int) -> Iterator[str]:
    try:
        size = parse_size(text)
    except BangerError as error:
        yield f"{field}: {error.message}"
        return
    if not smallest <= size <= MAX_SIZE:
        limits = f"{format_size(smallest)} to {format_size(MAX_SIZE)}"
        yield f"{field}: {text} is out of range ({limits})"


def _in_words(error: Exception) -> str:
    # msgspec puts the place last, as in: Expected `str`, got `int` - at `$.packages[0]`
    problem, _, place = str(error).replace("Object", "it").partition(" - at `$.")
    return f"{place.rstrip('`')}: {problem}" if place else problem


def _invalid(problem: str) -> CallerError:
    return CallerError(
        ErrorCode.INVALID_REQUEST,
        f"the recipe is not valid: {problem}",
        hint="docs/images.md describes the fields; a recipe needs at least a name",
    )
