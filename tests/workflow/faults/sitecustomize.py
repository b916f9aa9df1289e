"""Makes one call of one function wait or fail, once, in whatever process gets there first.

FAULT=module:function:call:action    `call` counts from 1; the action is `wait` or `raise`
FAULT_MARK=path                      made when the fault happens; then it never happens again.
                                     A waiting call goes on when path + ".go" exists.
FAULT_RULE=name                      only in jobs of this rule; in any process when left out
"""

import functools
import importlib.abc
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, function: str, call: int, action: str) -> None:
        self.module, self.function, self.call, self.action = module, function, call, action
        self.calls = 0
        self.mark = Path(os.environ["FAULT_MARK"])

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            self._replace(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _replace(self, module: Any) -> None:
        *owners, name = self.function.split(".")
        owner = functools.reduce(getattr, owners, module)
        original = getattr(owner, name)

        @functools.wraps(original)
        def faulty(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.call and not self.mark.exists():
                self.mark.touch()
                if self.action == "raise":
                    raise RuntimeError("a fault of the test")
                while not Path(f"{self.mark}.go").exists():
                    time.sleep(0.05)
            return original(*args, **kwargs)

        setattr(owner, name, faulty)


def _wanted_here() -> bool:
    rule = os.environ.get("FAULT_RULE")
    return "FAULT" in os.environ and (rule is None or f".{rule}.py" in " ".join(sys.orig_argv))


if _wanted_here():
    _module, _function, _call, _action = os.environ["FAULT"].split(":")
    sys.meta_path.insert(0, _Finder(_module, _function, int(_call), _action))
