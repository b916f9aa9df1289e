"""Which library files make a script's results stale, and which scripts start without torch."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import heretic
from heretic.scorer_registry import BUILT_IN
from heretic.source_tracking import code_fingerprints, in_packages, module_files

LIBRARY = Path(heretic.__file__).parent
SCRIPTS = Path(__file__).parents[1] / "scripts"
LIGHT_SCRIPTS = ("load_prompts", "check_prompts", "select_best", "save", "upload")


def files_of(script: str) -> set[str]:
    paths = module_files(SCRIPTS / f"{script}.py", LIBRARY)
    assert paths == sorted(set(paths))
    return {path.relative_to(LIBRARY).as_posix() for path in paths}


def package(tmp_path: Path, **files: str) -> Path:
    """A library with the given modules; `__` in a name stands for a slash."""
    library = tmp_path / "heretic"
    for name, text in {"__init__": "", **files}.items():
        parts = name.split("__") if name.strip("_") != "init" else [name]
        path = library.joinpath(*parts).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.parent != library:
            (path.parent / "__init__.py").touch()
    return library


def found(tmp_path: Path, library: Path, script: str) -> set[str]:
    path = tmp_path / "script.py"
    path.write_text(script)
    return {
        file.relative_to(library).as_posix()
        for file in module_files(path, library)
        if file.name != "__init__.py"
    }


@pytest.mark.parametrize("script", ["extract_residuals", "extract_protected_residuals"])
def test_residuals_depend_on_the_anatomy_and_not_on_the_report(script: str) -> None:
    files = files_of(script)
    assert {
        "residuals.py",
        "model/stream_writers/anatomy.py",
        "model/chat.py",
        "artifacts.py",
    } <= files
    rooms = {file.split("/")[0] for file in files if "/" in file}
    assert not rooms & {"report", "search", "engine", "scoring", "directions", "export", "ablation"}


GPU_SCRIPTS = (
    *("find_response_prefix", "extract_residuals", "extract_protected_residuals"),
    *("compute_directions", "optimize", "score_finalists", "apply_best", "evaluate"),
    *("benchmark_original", "benchmark"),
)
# The kinds of values, not the settings with their defaults and descriptions.
KINDS_OF_VALUES = {f"settings/{name}.py" for name in ("__init__", "prompt_sources", "types")}


@pytest.mark.parametrize("script", GPU_SCRIPTS)
def test_a_phase_on_a_gpu_depends_on_no_demo_and_no_field_of_the_settings(script: str) -> None:
    files = files_of(script)
    assert not {file for file in files if file.startswith("demo/")}
    # The search reads warm starts as it reads configuration files.
    allowed = KINDS_OF_VALUES | {"settings/config_files.py"}
    assert {file for file in files if file.startswith("settings/")} <= allowed


def test_the_search_depends_on_what_decides_its_scores() -> None:
    files = files_of("optimize")
    assert {
        "search/search_space.py",
        "scoring/refusal_markers.py",
        "scoring/kl_divergence.py",
        "ablation/projection.py",
        "model/decoding.py",
    } <= files
    assert not any(file.startswith(("report/", "export/")) for file in files)


def test_the_report_depends_on_its_template() -> None:
    templates = {f"report/{name}.html" for name in ("template", "outcome", "samples", "style")}
    assert templates <= files_of("report")
    assert "report/template.html" not in files_of("save")


def test_the_card_depends_on_its_template_and_nothing_else_does() -> None:
    assert "export/model_card.md.jinja" in files_of("save")
    assert "export/export.py" in files_of("apply_best")
    assert "export/model_card.md.jinja" not in files_of("apply_best")


@pytest.mark.parametrize("script", ["load_prompts", "train_demo_model"])
def test_the_demo_depends_on_its_words(script: str) -> None:
    assert {"demo/lexicon.yaml", "demo/wordings.yaml", "demo/tables.py"} <= files_of(script)


def test_a_data_file_belongs_to_the_module_of_its_name(tmp_path: Path) -> None:
    library = package(tmp_path, room__a="", room__b="")
    for name in ("a.yaml", "b.md.jinja", "shared.yaml"):
        (library / "room" / name).touch()
    assert found(tmp_path, library, "import heretic.room.a") == {
        *("room/a.py", "room/a.yaml", "room/shared.yaml"),
    }


@pytest.mark.parametrize("script", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_what_only_talks_to_the_user_makes_nothing_stale(script: str) -> None:
    files = files_of(script)
    assert files
    assert not files & {"console.py", "errors.py", "__init__.py"}


def test_imports_are_followed_through_modules_and_circles(tmp_path: Path) -> None:
    library = package(
        tmp_path,
        one="import heretic.two",
        two="from heretic.three import value",
        three="from heretic import one",
        apart="",
    )
    script = "from heretic.one import something"
    assert found(tmp_path, library, script) == {"one.py", "two.py", "three.py"}


@pytest.mark.parametrize(
    "script",
    [
        "import heretic.room.a",
        "import heretic.room.a as short",
        "from heretic.room import a",
        "from heretic.room import a as short",
        "from heretic.room.a import value",
        "def later():\n    from heretic.room.a import value",
        "import os, heretic.room.a",
    ],
)
def test_every_way_to_import(tmp_path: Path, script: str) -> None:
    library = package(tmp_path, room__a="", room__b="")
    assert found(tmp_path, library, script) == {"room/a.py"}


def test_relative_imports(tmp_path: Path) -> None:
    library = package(
        tmp_path,
        room__a="from . import b\nfrom .c import value\nfrom ..top import value",
        room__b="from .deep.e import value",
        room__c="",
        room__deep__e="from ... import other\nfrom ..d import value",
        room__d="",
        top="",
        other="",
        apart="",
    )
    assert found(tmp_path, library, "import heretic.room.a") == {
        "room/a.py",
        "room/b.py",
        "room/c.py",
        "room/d.py",
        "room/deep/e.py",
        "top.py",
        "other.py",
    }


def test_packages_on_the_way_are_run_and_count(tmp_path: Path) -> None:
    library = package(tmp_path, room__a="", room__b="", top="")
    (library / "room" / "__init__.py").write_text("from heretic import top")
    path = tmp_path / "script.py"
    path.write_text("import heretic.room.a")
    files = [file.relative_to(library).as_posix() for file in module_files(path, library)]
    assert files == ["room/__init__.py", "room/a.py", "top.py"]


def test_other_packages_do_not_count(tmp_path: Path) -> None:
    library = package(tmp_path, one="")
    assert found(tmp_path, library, "import os\nfrom hereticism import one") == set()


IMPORTS_ONLY = """
import ast, sys
tree = ast.parse(open(sys.argv[1]).read())
tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
exec(compile(tree, "imports", "exec"))
if "read_sources" in globals():
    from heretic.settings.prompt_sources import built_in_source
    assert read_sources([built_in_source("bad_prompts", "demo")], seed=0).prompts
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("script", LIGHT_SCRIPTS)
def test_light_scripts_start_without_torch(script: str) -> None:
    command = [sys.executable, "-c", IMPORTS_ONLY, str(SCRIPTS / f"{script}.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"


def fingerprint_of(tmp_path: Path, source: str) -> str:
    """Fingerprint of a module in a library of its own; paths are remembered within a process."""
    library = package(Path(tempfile.mkdtemp(dir=tmp_path)), one=source)
    script = library.parent / "script.py"
    script.write_text("import heretic.one")
    return code_fingerprints(script, library)["one.py"]


MODULE = '''
"""What it does."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LIMIT: int = setting(3, description="How many.", ge=1)  # a comment
WIDTH: int = setting(
    4,
    "How wide.",
    ge=1,
)
TABLE = column("rank", description="of a row")


def double(path: "Path") -> int:
    """Return twice the size."""
    return 2 * path.stat().st_size
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""What it does."""', '"""Something else."""'),
        ('"""Return twice the size."""\n    ', ""),
        ("  # a comment", ""),
        ("    return 2 * path", "    return (\n        2\n        * path"),
        ("How many.", "How many at most."),
        ("How wide.", "How wide at most."),
        ("from pathlib import Path", "from os import PathLike as Path"),
    ],
)
def test_prose_is_not_code(tmp_path: Path, old: str, new: str) -> None:
    edited = MODULE.replace(old, new)
    if "(\n" in new:
        edited = edited.replace("st_size", "st_size\n    )")
    assert edited != MODULE
    assert fingerprint_of(tmp_path, edited) == fingerprint_of(tmp_path, MODULE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2 *", "3 *"),
        ("ge=1", "ge=2"),
        ("setting(3", "setting(4"),
        ("    4,", "    5,"),
        ("of a row", "of a column"),
        ("double", "twice"),
        ("    return", "    path.touch()\n    return"),
        (".st_size", ".st_mtime"),
        ('"Path"', '"str"'),
    ],
)
def test_code_is_not_prose(tmp_path: Path, old: str, new: str) -> None:
    edited = MODULE.replace(old, new)
    assert edited != MODULE
    assert fingerprint_of(tmp_path, edited) != fingerprint_of(tmp_path, MODULE)


def test_the_bytes_of_data_files_count(tmp_path: Path) -> None:
    found = []
    for text in ("<p>one</p>", "<p>two</p>"):
        library = package(Path(tempfile.mkdtemp(dir=tmp_path)), room__a="")
        (library / "room" / "page.html").write_text(text)
        script = library.parent / "script.py"
        script.write_text("import heretic.room.a")
        found.append(code_fingerprints(script, library)["room/page.html"])
    assert found[0] != found[1]


def test_imports_for_type_checkers_are_no_dependencies(tmp_path: Path) -> None:
    library = package(
        tmp_path,
        one="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from heretic import two",
        two="",
    )
    assert found(tmp_path, library, "import heretic.one") == {"one.py"}


def test_fingerprints_of_rooms() -> None:
    code = {"model/chat.py": "a", "scoring/refusal_markers.py": "b", "scripts/optimize.py": "c"}
    assert in_packages(code, ("scoring", "model")) == {
        "model/chat.py": "a",
        "scoring/refusal_markers.py": "b",
    }
    assert in_packages(code, ("report",)) == {}


def test_every_scorer_of_the_search_decides_what_its_study_is() -> None:
    code = code_fingerprints(SCRIPTS / "optimize.py", LIBRARY)
    named = in_packages(code, ("scoring",))
    assert {"scoring/refusal_markers.py", "scoring/log_odds.py"} <= named.keys()


@pytest.mark.parametrize(
    ("importer", "more"),
    [("import_module(name)", {"room/a.py", "room/c.py"}), ("look_up(name)", set())],
)
def test_classes_that_a_registry_names_count_where_they_are_loaded(
    tmp_path: Path, importer: str, more: set[str]
) -> None:
    library = package(
        tmp_path,
        registry='ENTRIES = {"a": Entry("heretic.room.a:Class", "heretic.room.b, a module: no")}',
        user=f"from importlib import import_module\nfrom heretic import registry\n{importer}",
        room__a="from heretic.room import c",
        room__b="",
        room__c="",
    )
    assert found(tmp_path, library, "import heretic.user") == {"user.py", "registry.py", *more}


SCORING = ("optimize", "score_finalists", "evaluate")


@pytest.mark.parametrize("script", SCORING)
def test_rules_that_score_depend_on_every_built_in_scorer(script: str) -> None:
    files = files_of(script)
    for entry in BUILT_IN.values():
        module = entry.target.partition(":")[0].removeprefix("heretic.").replace(".", "/")
        assert f"{module}.py" in files
    assert "scorer_registry.py" in files


@pytest.mark.parametrize("script", sorted({*GPU_SCRIPTS} - {*SCORING}))
def test_other_phases_on_a_gpu_depend_on_no_scorer(script: str) -> None:
    files = files_of(script)
    assert "scorer_registry.py" not in files
    assert not {file for file in files if file.startswith("scoring/")}
