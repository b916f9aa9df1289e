"""A chat template as a file or as a text."""

from pathlib import Path

import pytest
from tiny_models import CHAT_TEMPLATE

from heretic.errors import ModelLoadError
from heretic.model.template import read_template


def test_a_text_a_file_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text(CHAT_TEMPLATE, encoding="utf-8")
    assert read_template(None) is None
    assert read_template(CHAT_TEMPLATE) == CHAT_TEMPLATE
    assert read_template(str(path)) == CHAT_TEMPLATE
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_template("~/chat.jinja") == CHAT_TEMPLATE


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "neither a file nor a template"),
        (b"", "holds no template"),
        (b"\xff{", "cannot read chat_template"),
    ],
)
def test_what_is_no_template(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "chat.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=words) as failure:
        read_template(str(path))
    assert "\n" not in str(failure.value)
