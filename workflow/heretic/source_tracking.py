"""A script's dependencies on library files, and fingerprints of their code."""

import ast
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "heretic"
DATA_SUFFIXES = (".html", ".jinja", ".json", ".yaml", ".txt")
# These affect what a user reads and when a job runs, but never the contents of an artifact.
WITHOUT_EFFECT = (
    *("__init__.py", "console.py", "credentials.py", "errors.py", "source_tracking.py"),
    *("file_systems.py", "locks.py", "phase_job.py", "phases.py"),
)
REFERENCE = re.compile(rf"(?P<module>{PACKAGE}(\.\w+)+):\w+")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def module_files(script: Path, library: Path) -> list[Path]:
    """Return the sorted library files that `script` imports, directly or indirectly.

    A module that calls `import_module` executes the classes that object references, such as
    `heretic.scoring.judge:Judge`, name in the modules it imports.

    A data file belongs to the module of the same name, such as `model_card.md.jinja` to
    `model_card.py`, or to every module in its folder if there is none.

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
    return sorted(found.union(*map(_data_files, found)))


def code_fingerprints(script: Path, library: Path) -> dict[str, str]:
    """Return a fingerprint of each file whose code a script executes, by its name.

    A Python file is fingerprinted by its syntax tree without docstrings, comments, formatting,
    type-checking imports and the descriptions of settings and scorers; a data file by its bytes.

    Args:
        script: a Python file.
        library: folder of the package `heretic`.

    Returns:
        Hexadecimal digests of 16 digits, by paths relative to the package, such as
        `model/chat.py`; the script itself is named `scripts/<name>.py`.
    """
    found = {f"scripts/{script.name}": _fingerprint(script)}
    for path in module_files(script, library):
        found[path.relative_to(library).as_posix()] = _fingerprint(path)
    return found


def in_packages(code: Mapping[str, str], packages: Collection[str]) -> dict[str, str]:
    """Return the fingerprints of some packages and modules of the library.

    Args:
        code: fingerprints by file name, as returned by `code_fingerprints`.
        packages: names of folders and files directly below the library's folder.
    """
    return {name: digest for name, digest in code.items() if name.split("/")[0] in packages}


@cache
def _fingerprint(path: Path) -> str:
    if path.suffix != ".py":
        content = path.read_bytes()
    else:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        content = repr(_without_prose(tree)).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _without_prose(node: Any) -> Any:
    """Return a syntax tree as nested tuples, without parts that do not affect execution.

    Empty fields are omitted, so that a Python version that adds one produces the same tuples.
    """
    if isinstance(node, list):
        return tuple(_without_prose(item) for item in node)
    if not isinstance(node, ast.AST):
        return node
    fields = []
    for name, value in ast.iter_fields(node):
        if name in ("ctx", "type_comment", "kind") or value is None or value == []:
            continue
        if name == "body" and isinstance(node, DOCUMENTED):
            value = [child for child in value if not _is_prose(child)]
        if name == "args" and _defines_setting(node):
            value = value[:1]  # the default; the description follows
        if name == "keywords" and (_defines_setting(node) or _registers_scorer(node)):
            value = [each for each in value if each.arg != "description"]
        fields.append((name, _without_prose(value)))
    return type(node).__name__, tuple(fields)


def _defines_setting(node: ast.AST) -> bool:
    """Return whether a node calls `heretic.settings.types.setting`."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "setting"


def _registers_scorer(node: ast.AST) -> bool:
    """Return whether a node creates an entry of `heretic.scorer_registry`."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "BuiltInScorer"


def _is_prose(statement: ast.stmt) -> bool:
    """Return whether a statement is a docstring or another unused string."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    ) or _is_for_type_checkers(statement)


def _is_for_type_checkers(statement: ast.AST) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


@cache
def _imported(source: Path, library: Path) -> frozenset[Path]:
    tree = ast.parse(source.read_text(encoding="utf-8"), filename=str(source))
    found = _files_of_all(_module_names(tree, _package_of(source, library)), library)
    if not any(map(_loads_references, ast.walk(tree))):
        return found
    texts = [path.read_text(encoding="utf-8") for path in found]
    return found.union(*(_files_of_all(_referred_modules(text), library) for text in texts))


def _files_of_all(modules: Iterable[str], library: Path) -> frozenset[Path]:
    return frozenset(path for name in modules for path in _files_of(name.split(".")[1:], library))


def _loads_references(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")


def _referred_modules(source: str) -> Iterator[str]:
    """Yield the modules of the object references among the strings of a source file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = REFERENCE.fullmatch(node.value)
            if found:
                yield found["module"]


def _package_of(source: Path, library: Path) -> list[str]:
    """Return the package at the base of `source`'s relative imports; empty for a script."""
    if not source.is_relative_to(library):
        return []
    return [PACKAGE, *source.relative_to(library).parent.parts]


def _module_names(tree: ast.Module, package: list[str]) -> Iterator[str]:
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            # `from heretic.model import anatomy` may name a module or an object inside one.
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == PACKAGE)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a syntax tree without parts read only by type checkers."""
    yield node
    for child in ast.iter_child_nodes(node):
        if _is_for_type_checkers(child):
            assert isinstance(child, ast.If)
            for statement in child.orelse:
                yield from _executed(statement)
        else:
            yield from _executed(child)


def _files_of(parts: list[str], library: Path) -> Iterator[Path]:
    """Return the module itself and the packages executed by importing it."""
    for depth in range(len(parts) + 1):
        package = library.joinpath(*parts[:depth]) / "__init__.py"
        if package.is_file():
            yield package
    module = library.joinpath(*parts).with_suffix(".py") if parts else library
    if module.is_file():
        yield module


def _data_files(module: Path) -> set[Path]:
    """Return the data files in a module's folder that belong to no other module."""
    return {
        path
        for path in module.parent.iterdir()
        if path.is_file() and path.suffix in DATA_SUFFIXES and _owner(path) in (None, module)
    }


def _owner(data_file: Path) -> Path | None:
    """Return the module of the same name, if any."""
    module = data_file.with_name(data_file.name.split(".")[0] + ".py")
    return module if module.is_file() else None
