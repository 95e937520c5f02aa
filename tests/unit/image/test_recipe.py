"""A recipe says what goes into an image; what is wrong with one is said in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api.errors import CallerError, ErrorCode
from banger.api.sizes import GIB
from banger.image.recipe import builtin_names, builtin_recipe, is_builtin, parse_recipe


def mistake(text: str) -> str:
    with pytest.raises(CallerError) as caught:
        parse_recipe(text)

    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_name_is_enough() -> None:
    recipe = parse_recipe('name = "tiny"')

    assert (recipe.suite, recipe.packages) == ("bookworm", ())
    assert (recipe.root_size, recipe.work_size) == (8 * GIB, 8 * GIB)
    assert recipe.kernel_package == "linux-image-cloud-amd64"
    assert recipe.documentation is False


def test_sizes_are_read_and_repeated_packages_are_one() -> None:
    recipe = parse_recipe('name = "a"\npackages = ["git", "g++", "git"]\nroot_size = "20G"')

    assert recipe.packages == ("git", "g++")
    assert recipe.root_size == 20 * GIB


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "missing required field `name`"),
        ("name = ", "Invalid value"),
        ('name = "a"\nsise = 1', "unknown field `sise`"),
        ('name = "a"\npackages = "git"', "packages: Expected `array`, got `str`"),
        ('name = "a"\npackages = ["git", 1]', "packages[1]: Expected `str`, got `int`"),
        ('name = "A b"', "image name 'A b' is not valid"),
        ('name = "a"\nsuite = "../x"', "suite: '../x' is not a suite's code name"),
        ('name = "a"\npackages = ["--help"]', "'--help' is not a package name"),
        ('name = "a"\npackages = ["git,vim"]', "'git,vim' is not a package name"),
        ('name = "a"\nkernel_package = "?all"', "'?all' is not a package name"),
        ('name = "a"\nroot_size = "big"', "root_size: 'big' is not a size"),
        ('name = "a"\nroot_size = "1G"', "root_size: 1G is out of range (2G to 1.0T)"),
        ('name = "a"\nwork_size = "9999T"', "work_size: 9999T is out of range"),
    ],
)
def test_each_mistake_is_named(text: str, problem: str) -> None:
    assert problem in mistake(text)


def test_several_mistakes_are_told_at_once() -> None:
    message = mistake('name = "A"\nsuite = "B"\nroot_size = "C"')

    assert all(field in message for field in ("name:", "suite:", "root_size:"))


@given(st.text(max_size=60))
def test_any_text_is_a_recipe_or_the_callers_mistake(text: str) -> None:
    try:
        parse_recipe(text)
        code = None
    except CallerError as error:
        code = error.code

    assert code in (None, ErrorCode.INVALID_REQUEST)


@pytest.mark.parametrize("name", builtin_names())
def test_every_builtin_recipe_is_valid_and_has_its_files_name(name: str) -> None:
    assert is_builtin(name)
    assert builtin_recipe(name).name == name


def test_the_default_has_what_a_guest_of_ours_needs() -> None:
    assert {"systemd-sysv", "openssh-server", "udev", "python3"} <= set(
        builtin_recipe("debian-bookworm").packages
    )


def test_an_unknown_builtin_is_an_unknown_image() -> None:
    with pytest.raises(CallerError) as caught:
        builtin_recipe("debian-potato")

    assert caught.value.code is ErrorCode.UNKNOWN_IMAGE
    assert "debian-bookworm" in caught.value.message
