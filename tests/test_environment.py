"""`envs/constraints.txt` pins everything that an installation with the tests' extra consists of."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import heretic

# For a process that sees no installed package.
PATHS = f"import sys; sys.path.insert(0, {str(Path(heretic.__file__).parents[1])!r})"
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)$", re.MULTILINE)


def pins() -> dict[str, str]:
    text = (REPOSITORY / "envs" / "constraints.txt").read_text()
    return {canonicalize_name(name): version for name, version in PIN.findall(text)}


def installation(*extras: str) -> dict[str, str]:
    """Versions here of all that `pip install .[extras]` draws in, as `pip freeze` would list."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(each for extra in extras for each in optional[extra])]
    waiting = [(Requirement(each), "") for each in wanted]
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, of_extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                here = distribution(name)
            except PackageNotFoundError:
                pytest.fail(f"{requirement} is not installed")
            found[name] = here.version
            waiting += [(Requirement(each), extra) for each in here.requires or []]
    return found


def test_every_package_of_an_installation_is_pinned_as_it_was_tested() -> None:
    pinned, here = pins(), installation("test", "benchmarks", "plots", "quantized", "slurm")
    assert len(here) > 100
    # A build for another accelerator, such as 2.13.0+cpu, is the same version.
    differing = {
        name: (version, pinned.get(name, "no pin"))
        for name, version in here.items()
        if name not in pinned or Version(version).public != Version(pinned[name]).public
    }
    # pip leaves setuptools, and what CUDA builds of torch bring along, out or to torch's line.
    assert {n: v for n, v in differing.items() if not is_of_torch(n)} == {}


def test_hooks_before_a_commit_use_the_pinned_versions() -> None:
    config = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    used = {
        requirement
        for repository in config["repos"]
        for hook in repository["hooks"]
        for requirement in hook.get("additional_dependencies", ())
    }
    assert {each.partition("==")[0] for each in used} == {"ruff", "snakefmt", "codespell"}
    pinned = pins()
    assert used == {f"{name}=={pinned[name]}" for name in ("ruff", "snakefmt", "codespell")}


def test_the_citation_and_the_package_have_the_same_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]


def test_the_package_knows_its_version_without_a_search_when_it_is_imported() -> None:
    assert heretic.__version__ == version("heretic-workflow")
    assert (Path(heretic.__file__).parent / "py.typed").is_file()
    code = "import heretic, sys; assert 'importlib.metadata' not in sys.modules"
    subprocess.run([sys.executable, "-I", "-S", "-c", f"{PATHS}; {code}"], check=True)


def test_a_source_tree_that_is_not_installed_has_no_version(tmp_path: Path) -> None:
    source = Path(heretic.__file__)
    (tmp_path / "heretic").mkdir()
    shutil.copy(source, tmp_path / "heretic")
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    code = "import heretic; assert heretic.__version__ == 'unknown'"
    subprocess.run([sys.executable, "-I", "-S", "-c", f"{path}; {code}"], check=True)


def is_of_torch(name: str) -> bool:
    return name in ("setuptools", "triton") or name.startswith(("nvidia-", "cuda-"))
