"""`config.json` of a saved model: the base model's own text with only the values that changed.

Serializing a configuration uses the names of the installed transformers version, which other
readers may not know: version 4 and most servers ignore the RoPE base in `rope_parameters` and the
number of experts in `num_local_experts`, and compute something else without an error.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heretic.artifacts import read_json, write_text
from heretic.errors import ExportError
from heretic.model.quantization import KEYS, stored_quantization

FILE = "config.json"
# Names of the data type in versions 5 and 4.
DTYPES = ("dtype", "torch_dtype")
# Layers that predict tokens ahead: `num_nextn_predict_layers`, `mtp_num_hidden_layers`, `use_mtp`.
AHEAD = re.compile(r"(num_|n_)?(nextn|mtp)_(\w+_)?(layers|modules)|use_mtp")
DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class _Member:
    """A name and its value in the text of a JSON object, by position."""

    name: str
    start: int
    value: int
    end: int


def restore_configuration(source: Path, target: Path, *, complete: bool = True) -> None:
    """Replace the `config.json` that transformers wrote in `target` by that of `source`, adapted.

    The data type and the architecture are those of the saved network, and the configuration of a
    quantization that it does not have is left out. Other values, unknown keys, their order and the
    format of numbers are kept.

    Args:
        source: folder of the base model.
        target: folder of the saved model.
        complete: whether the saved model has all tensors of the base model.

    Raises:
        ExportError: a file is not a JSON object.
    """
    text = (source / FILE).read_text(encoding="utf-8")
    write_text(target / FILE, adapted(text, read_json(target / FILE), complete=complete))


def is_quantized(folder: Path) -> bool:
    """Return whether a model's configuration states that its weights are quantized."""
    return stored_quantization(folder / FILE) is not None


def adapted(text: str, saved: Mapping[str, Any], *, complete: bool = True) -> str:
    """Return a configuration's text with the values that differ in the saved network.

    Args:
        text: text of the base model's `config.json`.
        saved: configuration of the saved network.
        complete: whether the layers that predict tokens ahead are saved; otherwise, their number
            becomes 0.

    Raises:
        ExportError: the text is not a JSON object.
    """
    values = {name: saved[name] for name in ("dtype", "architectures") if name in saved}
    try:
        text = _without_quantization(text, saved)
        base = json.loads(text)
        known = _dtype(base)
        changes: list[tuple[int, int, str]] = []
        for member in _members(text, 0):
            value, parts = base[member.name], []
            if member.name in DTYPES and known is not None:
                changes += _changed(member, value, values.get("dtype", value))
            elif member.name == "architectures":
                changes += _changed(member, value, values.get("architectures", value))
            elif isinstance(value, dict):  # the configuration of a part, such as the text model
                parts = list(_members(text, member.value))
            elif not complete:
                changes += _changed(member, value, _withdrawn(member.name, value))
            for part in parts:
                if part.name in DTYPES and value[part.name] == known:
                    changes += _changed(part, known, values.get("dtype", known))
                elif not complete:
                    changes += _changed(
                        part, value[part.name], _withdrawn(part.name, value[part.name])
                    )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ExportError(
            f"the base model's {FILE} is not a JSON object ({error}); download it again"
        ) from error
    for start, end, value in sorted(changes, reverse=True):
        text = text[:start] + value + text[end:]
    return text


def _without_quantization(text: str, saved: Mapping[str, Any]) -> str:
    """Return a configuration's text without the quantization that a saved network lacks."""
    while (member := next(_superfluous(text, saved), None)) is not None:
        start, end = _with_comma(text, member)
        text = text[:start] + text[end:]
    return text


def _superfluous(text: str, saved: Mapping[str, Any]) -> Iterator[_Member]:
    """Yield the members, also of parts, that describe a quantization absent from `saved`."""
    for member in _members(text, 0):
        part = saved.get(member.name)
        if member.name in KEYS and part is None:
            yield member
        elif text[member.value] == "{":
            known = part if isinstance(part, Mapping) else {}
            inner = _members(text, member.value)
            yield from (each for each in inner if each.name in KEYS and each.name not in known)


def without_member(text: str, name: str) -> str:
    """Return the text of a JSON object without one of its members, unchanged otherwise.

    Raises:
        ExportError: the text is not a JSON object.
    """
    try:
        for member in _members(text, 0):
            if member.name == name:
                start, end = _with_comma(text, member)
                return text[:start] + text[end:]
    except (LookupError, ValueError) as error:
        raise ExportError(
            f"a file of the base model is not a JSON object ({error}); download it again"
        ) from error
    return text


def _withdrawn(name: str, value: Any) -> Any:
    """Return the value of a field for a model without layers that predict tokens ahead."""
    if not AHEAD.fullmatch(name) or not isinstance(value, int):
        return value
    return False if isinstance(value, bool) else 0


def _dtype(base: Mapping[str, Any]) -> str | None:
    """Return the data type of a configuration, or else of one of its parts."""
    parts = (part for part in base.values() if isinstance(part, dict))
    found = (part[name] for part in (base, *parts) for name in DTYPES if part.get(name))
    return next(found, None)


def _changed(member: _Member, old: Any, new: Any) -> list[tuple[int, int, str]]:
    return [] if old == new else [(member.value, member.end, json.dumps(new))]


def _members(text: str, place: int) -> Iterator[_Member]:
    """Yield the members of the JSON object that begins at `place`, in order."""
    place = text.index("{", place) + 1
    while True:
        while text[place] in " \t\r\n,":
            place += 1
        if text[place] == "}":
            return
        name, end = DECODER.raw_decode(text, place)
        value = text.index(":", end) + 1
        while text[value] in " \t\r\n":
            value += 1
        _, stop = DECODER.raw_decode(text, value)
        yield _Member(name, place, value, stop)
        place = stop


def _with_comma(text: str, member: _Member) -> tuple[int, int]:
    """Return the ends of a member with the comma and the space that separate it from another."""
    before, after = text[: member.start].rstrip(), text[member.end :].lstrip()
    if before.endswith(","):
        return len(before) - 1, member.end
    if after.startswith(","):
        return member.start, len(text) - len(after[1:].lstrip())
    return member.start, member.end
