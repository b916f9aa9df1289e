"""The library's import graph: no circle, nowhere, and light modules above everything heavy."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import heretic

LIBRARY = Path(heretic.__file__).parent
MODULES = {
    ".".join(["heretic", *path.relative_to(LIBRARY).with_suffix("").parts]).removesuffix(
        ".__init__"
    ): path
    for path in sorted(LIBRARY.rglob("*.py"))
}
HEAVY = {"torch", "transformers"}


def statements(node: ast.AST, *, deferred: bool) -> Iterator[ast.AST]:
    """Walk what is executed; with what functions execute later, if `deferred`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if not deferred and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from statements(child, deferred=deferred)


@cache
def imports(module: str, *, deferred: bool) -> frozenset[str]:
    """Modules of the library that a module imports, and the first parts of other names."""
    found: set[str] = set()
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in statements(tree, deferred=deferred):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            # A name that is taken from a package may be a module.
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inner]
        else:
            continue
        found.update(name if name in MODULES else name.split(".")[0] for name in names)
    return frozenset(found)


def loaded(module: str) -> set[str]:
    """All that importing a module loads, with the packages on the way."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name in MODULES:
            waiting += [*imports(name, deferred=False), *filter(None, [name.rpartition(".")[0]])]
    return found


def test_no_modules_import_each_other_in_a_circle_not_even_within_functions() -> None:
    graph = {
        module: {name for name in imports(module, deferred=True) if name in MODULES}
        for module in MODULES
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))
    assert set(order) == MODULES.keys()
    assert sum(map(len, graph.values())) > 500


def test_scripts_only_connect_a_rule_to_the_library() -> None:
    scripts = sorted((LIBRARY.parents[1] / "scripts").glob("*.py"))
    assert len(scripts) > 10
    long = [path.name for path in scripts if len(path.read_text().splitlines()) > 60]
    assert not long


@pytest.mark.parametrize("module", ["heretic.cli", "heretic.preflight", "heretic.search.status"])
def test_what_a_user_waits_for_loads_no_model_library(module: str) -> None:
    names = loaded(module)
    assert len(names) > 20
    assert not names & HEAVY
