"""`envs/constraints.txt` pins everything that an installation with the tests' extra consists of."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

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


def is_of_torch(name: str) -> bool:
    return name in ("setuptools", "triton") or name.startswith(("nvidia-", "cuda-"))
