"""Which library files a script depends on: the modules that it imports, and their data."""

import ast
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

PACKAGE = "heretic"
DATA_SUFFIXES = (".html", ".json", ".yaml", ".txt")
# These change what a user reads on the screen, never what an artifact holds.
WITHOUT_EFFECT = ("__init__.py", "console.py", "errors.py")


def module_files(script: Path, library: Path) -> list[Path]:
    """The files of the library that `script` imports, directly or through others, sorted.

    Data files count with the modules that lie beside them.

    Args:
        script: a Python file.
        library: folder of the package `heretic`.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        for path in _imported(waiting.pop(), library):
            if path not in found:
                found.add(path)
                waiting.append(path)
    found -= {library / name for name in WITHOUT_EFFECT}
    folders = {path.parent for path in found}
    return sorted(found.union(*map(_data_files, folders)))


def in_rooms(path: Path, rooms: Collection[str]) -> str | None:
    """Name of a module below the package, if it lies in one of some rooms of it, at any depth.

    Args:
        path: of a file.
        rooms: folders directly below the package.
    """
    parts = path.resolve().parts
    if PACKAGE not in parts:
        return None
    below = parts[len(parts) - parts[::-1].index(PACKAGE) :]
    return "/".join(below) if below[:1] and below[0] in rooms else None


@cache
def _imported(source: Path, library: Path) -> frozenset[Path]:
    tree = ast.parse(source.read_text(encoding="utf-8"), filename=str(source))
    return frozenset(
        path
        for name in _module_names(tree, _package_of(source, library))
        for path in _files_of(name.split(".")[1:], library)
    )


def _package_of(source: Path, library: Path) -> list[str]:
    """The package that relative imports of `source` start from; empty for a script."""
    if not source.is_relative_to(library):
        return []
    return [PACKAGE, *source.relative_to(library).parent.parts]


def _module_names(tree: ast.Module, package: list[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            # `from heretic.model import anatomy` may name a module or something inside one.
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == PACKAGE)


def _files_of(parts: list[str], library: Path) -> Iterator[Path]:
    """The module itself and the packages that importing it runs."""
    for depth in range(len(parts) + 1):
        package = library.joinpath(*parts[:depth]) / "__init__.py"
        if package.is_file():
            yield package
    module = library.joinpath(*parts).with_suffix(".py") if parts else library
    if module.is_file():
        yield module


def _data_files(folder: Path) -> set[Path]:
    return {path for path in folder.iterdir() if path.is_file() and path.suffix in DATA_SUFFIXES}
