"""Nothing in the library runs code that a file brings: a scan of its source.

Calls are recognized by name, so that a new one without the safe arguments fails here.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "workflow").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])
# Modules that run code when they read data, and the pickled dictionary of lm-eval.
PICKLING = {
    "pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "sqlitedict",
    "jsonpickle",
}
LOADERS = {"torch.load", "np.load", "numpy.load", "pandas.read_pickle", "pd.read_pickle"}
EVALUATING = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
UNSAFE_YAML = {
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
    *("yaml.full_load", "yaml.full_load_all"),
}
# The last two are subclasses of the safe loader.
SAFE_YAML = {
    *("yaml.BaseLoader", "yaml.SafeLoader", "yaml.CSafeLoader"),
    *("_Limited", "_LimitedTexts"),
}
LOADING = {"from_pretrained", "from_config", "pipeline"}
# These run no code of a repository and have no such argument.
WITHOUT_CODE = {"PeftConfig", "PeftModel", "GenerationConfig"}
WITHOUT_WEIGHTS = {"AutoConfig", "AutoTokenizer", "GenerationConfig", "PeftConfig"}


def name_of(node: ast.expr) -> str:
    """`torch.load` of the expression that is called; empty for other expressions."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def choices(node: ast.expr) -> list[ast.expr]:
    """Both values of a conditional expression, else the expression."""
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        yield node.module or ""


def faults(source: str) -> list[str]:
    """What a module does that may run a stranger's code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        found += [f"imports {n}" for n in imports(node) if n.split(".")[0] in PICKLING]
        if isinstance(node, ast.Call):
            found += [f"line {node.lineno}: {fault}" for fault in of_call(node)]
    return found


def of_call(call: ast.Call) -> Iterator[str]:
    name = name_of(call.func)
    receiver, _, method = name.rpartition(".")
    if name in LOADERS | SHELLS or name in EVALUATING or method == "CachingLM":
        yield f"calls {name}"
    if name in UNSAFE_YAML and not any(
        {name_of(choice) for choice in choices(given)} <= SAFE_YAML
        for given in (*call.args[1:], *(each.value for each in call.keywords))
    ):
        yield f"{name} without a safe loader"
    for argument, value in (("shell", True), ("allow_pickle", True), ("weights_only", False)):
        if is_constant(keyword(call, argument), value):
            yield f"{argument}={value}"
    if method in LOADING:
        trust = keyword(call, "trust_remote_code")
        # Off, or as the user's setting of that name says.
        safe = is_constant(trust, False) or (
            trust is not None and name_of(trust).split(".")[-1] == "trust_remote_code"
        )
        if receiver not in WITHOUT_CODE and not safe:
            yield f"{name} without trust_remote_code"
        weightless = method == "from_config" or receiver in WITHOUT_WEIGHTS
        if not weightless and not is_constant(keyword(call, "use_safetensors"), True):
            yield f"{name} without use_safetensors=True"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_runs_what_a_file_brings(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from dill import loads", "from sqlitedict import SqliteDict"),
        *("torch.load(path)", "np.load(path)", "eval(text)", "exec(text)", "input()"),
        *("yaml.load(text)", "yaml.load(text, yaml.Loader)", "yaml.unsafe_load(text)"),
        *("subprocess.run(x, shell=True)", "os.system(x)", "lm_eval.api.model.CachingLM(x, y)"),
        "AutoConfig.from_pretrained(x)",
        "AutoConfig.from_pretrained(x, trust_remote_code=None)",
        "AutoConfig.from_pretrained(x, trust_remote_code=True)",
        "AutoTokenizer.from_pretrained(x, **options)",
        "kind.from_config(x)",
        "kind.from_pretrained(x, trust_remote_code=False)",
        "kind.from_pretrained(x, trust_remote_code=False, use_safetensors=None)",
        "PeftModel.from_pretrained(x, y)",
        "pipeline('text-classification', model=x)",
    ],
)
def test_unsafe_calls_are_recognized(source: str) -> None:
    assert faults(source)


@pytest.mark.parametrize(
    "source",
    [
        *("model.eval()", "torch.compile(x)", "re.compile(x)", "yaml.safe_load(text)"),
        *("yaml.load(text, Loader=yaml.BaseLoader)", "yaml.load(text, yaml.SafeLoader)"),
        "AutoConfig.from_pretrained(x, trust_remote_code=options.trust_remote_code)",
        "kind.from_pretrained(x, trust_remote_code=trust_remote_code, use_safetensors=True)",
        "kind.from_config(x, trust_remote_code=False)",
        "PeftConfig.from_pretrained(x)",
    ],
)
def test_safe_calls_pass(source: str) -> None:
    assert faults(source) == []
