"""Which library modules a script depends on, read from its imports."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "heretic"
# These change what a user reads on the screen, never what an artifact holds.
WITHOUT_EFFECT = ("__init__.py", "console.py", "errors.py")


def module_files(script: Path, library: Path) -> list[Path]:
    """The files of the library that `script` imports, directly or through others, sorted.

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
    return sorted(found - {library / name for name in WITHOUT_EFFECT})


@cache
def _imported(source: Path, library: Path) -> frozenset[Path]:
    tree = ast.parse(source.read_text(encoding="utf-8"), filename=str(source))
    return frozenset(
        path for name in _module_names(tree) for path in _files_of(name.split(".")[1:], library)
    )


def _module_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from heretic.model import anatomy` may name a module or something inside one.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
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
