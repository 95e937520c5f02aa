"""The program where root alone can change it: a virtual environment with banger and what it needs.

Copied from wherever banger runs now, a clone or a home directory, because the root helper and the
owner's daemon are not to run what another process of the owner's can rewrite. It has no pip; to
upgrade is to install anew.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import banger
from banger.api.errors import ErrorCode, PermanentError
from banger.host.files import remove_tree
from banger.install import layout
from banger.install.tree import Tree
from banger.privileged.faults import Fault
from banger.privileged.gates.binaries import open_trusted

_NAME = "banger"
_COMMANDS = {"banger": "banger.cli.main", "bangerd": "banger.daemon.entry"}
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")

# PEP 405; -I keeps the caller's environment and directory out of what Python loads.
_SETTINGS = "home = {home}\ninclude-system-site-packages = false\nversion = {version}\n"
_SCRIPT = "#!{python} -I\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n"


def put_program(tree: Tree) -> Path | None:
    """Put this banger in place, with its commands; returns what it replaced, still to be removed.

    Raises PermanentError(unsupported_host) when there is no Python for it that only root can
    change, or it runs from something that is no installed package.
    """
    python = interpreter()
    tree.directory(layout.PROGRAM.parent, 0o755)
    new = tree.at(layout.PROGRAM).with_name(f".{layout.PROGRAM.name}.new")
    remove_tree(new)
    tree.undo.callback(remove_tree, new)
    _build(new, python)
    old = tree.swap(layout.PROGRAM, new)
    tree.directory(layout.COMMANDS, 0o755)
    for name in _COMMANDS:
        tree.link(layout.COMMANDS / name, layout.PROGRAM / "bin" / name)

    return old


def interpreter() -> Path:
    """The Python that runs this, if only root can change it, else the system's of that version.

    Compiled packages fit one version. Raises PermanentError(unsupported_host).
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    running = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    for candidate in (running, os.path.realpath(f"/usr/bin/python{version}")):
        if _usable(candidate):
            return Path(candidate)

    raise PermanentError(
        ErrorCode.UNSUPPORTED_HOST,
        f"{running} is not a Python that root owns and everybody may run, as services need",
        hint="install banger with the system's: /usr/bin/python3 -m venv",
    )


def distributions() -> list[Distribution]:
    """What banger needs to run, itself first. Raises PermanentError(unsupported_host)."""
    found: dict[str, Distribution] = {}
    waiting = [(_NAME, False)]
    for name, optional in waiting:
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue

        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            # A marker says that this Python or system may do without.
            if optional:
                continue

            raise PermanentError(
                ErrorCode.UNSUPPORTED_HOST,
                f"banger does not run from an installed package: there is no {name}",
                hint="pip install banger into a virtual environment, and install from there",
            ) from None
        waiting += _requirements(found[key])

    return list(found.values())


def _requirements(package: Distribution) -> Iterator[tuple[str, bool]]:
    """What `package` needs (PEP 508), each with whether a marker may rule it out."""
    for line in package.requires or ():
        requirement, _, marker = line.partition(";")
        match = _REQUIREMENT.match(requirement)
        if match and "extra" not in marker:
            yield match[0], bool(marker)


def _usable(python: str) -> bool:
    try:
        with open_trusted(python):
            path = Path(python)
            return all(place.stat().st_mode & 0o001 for place in (path, *path.parents))
    except (Fault, OSError):
        return False


def _build(root: Path, python: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = root / "lib" / f"python{version}" / "site-packages"
    packages.mkdir(parents=True)
    commands = root / "bin"
    commands.mkdir()
    (commands / "python").symlink_to(python)
    (root / "pyvenv.cfg").write_text(_SETTINGS.format(home=python.parent, version=version))
    for name, module in _COMMANDS.items():
        script = _SCRIPT.format(python=layout.PROGRAM / "bin" / "python", module=module)
        (commands / name).write_text(script)

    for package in distributions():
        _copy(package, packages)

    source = Path(banger.__file__).parent
    shutil.copytree(
        source,
        packages / _NAME,
        ignore=shutil.ignore_patterns("__pycache__"),
        copy_function=shutil.copyfile,
    )
    final = str(layout.PROGRAM / packages.relative_to(root))
    compileall.compile_dir(packages, quiet=2, stripdir=str(packages), prependdir=final)
    _open_to_all(root)


def _copy(package: Distribution, packages: Path) -> None:
    """What `package` brought, but for banger's own modules, which may be elsewhere (PEP 660)."""
    own = package.name == _NAME
    for file in package.files or ():
        metadata = file.parts[0].endswith(".dist-info")
        if ".." in file.parts or file.suffix == ".pyc" or (own and not metadata):
            continue

        place = packages / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(file.locate()), place)


def _open_to_all(root: Path) -> None:
    """Modes as everybody needs them, whatever umask and source were."""
    commands = root / "bin"
    for place in (root, *root.rglob("*")):
        if not place.is_symlink():
            place.chmod(0o755 if place.is_dir() or place.parent == commands else 0o644)
