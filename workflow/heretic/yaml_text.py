"""YAML with limits on the total size of values, including aliases, and on the size of numbers.

PyYAML reads aliases as references, so that a file of 400 bytes may represent billions of values,
and raises exceptions other than its own.
"""

from typing import Any

import yaml

from heretic.errors import one_line

MOST_CHARACTERS = 1_000_000
# Number of values, with each alias counted as its target.
MOST_VALUES = 100_000
# Python rejects decimal numbers above 4,300 digits, and takes long for some others.
MOST_DIGITS = 400


class YamlTextError(ValueError):
    """A text is not YAML, or exceeds the limits."""


def read_yaml(text: str, *, only_texts: bool = False) -> Any:
    """Return the value of a YAML document.

    Args:
        text: the document.
        only_texts: whether to keep all scalars as texts.

    Raises:
        YamlTextError: one line that states the problem.
    """
    if len(text) > MOST_CHARACTERS:
        raise YamlTextError(f"has {len(text)} characters; at most {MOST_CHARACTERS} are read")
    try:
        return yaml.load(text, Loader=_LimitedTexts if only_texts else _Limited)
    except RecursionError as error:
        raise YamlTextError("is nested too deeply") from error
    # PyYAML does not check values with an explicit tag: `!!bool x` is a KeyError, `!!timestamp x`
    # an AttributeError.
    except (LookupError, AttributeError) as error:
        raise YamlTextError("is not valid YAML: a value does not fit its tag") from error
    # ValueError: a nonexistent date or number.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise YamlTextError(f"is not valid YAML: {one_line(error)}") from error


class _Limits:
    """Counts the values of each node while a document is composed."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)  # type: ignore[call-arg]
        self._counts = [0]
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node; an alias counts with the size of its target."""
        if self.check_event(yaml.AliasEvent):  # type: ignore[attr-defined]
            node = super().compose_node(parent, index)  # type: ignore[misc]
            if id(node) not in self._sizes:
                raise yaml.YAMLError("an alias refers to a value that contains it")
            size = self._sizes[id(node)]
        else:
            self._counts.append(1)
            node = super().compose_node(parent, index)  # type: ignore[misc]
            size = self._sizes[id(node)] = self._counts.pop()
            if isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")):
                _check_digits(node)
        self._counts[-1] += size
        if self._counts[-1] > MOST_VALUES:
            raise yaml.YAMLError(f"it expands to more than {MOST_VALUES} values")
        return node  # type: ignore[no-any-return]


class _Limited(_Limits, yaml.SafeLoader):
    pass


class _LimitedTexts(_Limits, yaml.BaseLoader):
    pass


def _check_digits(node: yaml.ScalarNode) -> None:
    if len(node.value) > MOST_DIGITS:
        raise yaml.YAMLError(f"a number has more than {MOST_DIGITS} digits")
