"""Characters that a terminal would obey are shown, wherever the text of a stranger comes out."""

import json
import logging
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from search.small_search import search
from test_cli import heretic

from heretic.console import start_logging
from heretic.errors import one_line, printable
from heretic.report import parts
from heretic.report.parts import render

# Clipboard, title, C1 introducer, carriage return, reordering, isolates, a lone surrogate, NUL.
EVIL = "a\x1b]52;c;aGk=\x07b\x1b[2Jc\x9b31md\re\u202ef\u2066g\u061ch\udc80i\x00j\x7fk\u2028l"
OBEYED = set("\x1b\x07\x9b\r\u202e\u2066\u061c\udc80\x00\x7f\u2028")


def harmless(text: str) -> bool:
    return not OBEYED & set(text)


def test_every_control_character_is_escaped_and_all_else_stays() -> None:
    for code in range(0x110000):
        if chr(code).isprintable() or chr(code) in "\n\t":
            assert printable(chr(code)) == chr(code)
    for code in [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0xD800, 0xE000)]:
        if chr(code) not in "\n\t":
            assert printable(chr(code)).isascii(), hex(code)
    assert printable("\x1b\u202e") == "\\x1b\\u202e"
    # Letters, scripts, and the joiners of emoji and of Indic scripts.
    for text in ("Größe 模型 שלום مرحبا", "👩\u200d🔬", "क्\u200dष"):
        assert printable(text) == text


def test_json_stays_json() -> None:
    text = json.dumps({"a": EVIL}, ensure_ascii=False)
    assert json.loads(printable(text)) == {"a": EVIL}


def test_error_lines_of_a_process_and_its_log(tmp_path: Path) -> None:
    program = (
        "import logging\n"
        "from heretic.console import job, log\n"
        "from heretic.errors import StudyError\n"
        f"evil = {EVIL!r}\n"
        "with job('phase.log'):\n"
        "    log.info('Loaded %s', evil)\n"
        "    logging.getLogger('transformers').warning('of type %s', evil)\n"
        "    raise StudyError(evil)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert harmless(done.stderr)
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["Loaded", "of", "StudyError:"]
    assert "\\x1b]52;c;aGk=" in lines[2]
    log = (tmp_path / "phase.log").read_bytes().decode()
    assert harmless(log)
    assert len(log.splitlines()) == 2


def test_the_trace_of_a_defect(tmp_path: Path) -> None:
    program = (
        f"from heretic.console import job\nwith job('phase.log'):\n    raise ValueError({EVIL!r})\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert harmless(done.stderr)
    assert len(done.stderr.splitlines()) == 1
    assert harmless((tmp_path / "phase.log").read_bytes().decode())


def test_records_of_other_libraries(caplog: pytest.LogCaptureFixture) -> None:
    start_logging()
    logging.getLogger("transformers").warning("of type %s", EVIL)
    assert harmless(caplog.text)
    assert one_line(EVIL) == printable(" ".join(EVIL.split()))


def test_names_of_studies_in_the_table_of_trials(tmp_path: Path) -> None:
    (tmp_path / "results" / "mine").mkdir(parents=True)
    database = tmp_path / "results" / "mine" / "study.db"
    search(database, 2)
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE studies SET study_name = ?", (EVIL.replace("\udc80", ""),))
    connection.close()
    done = heretic(tmp_path, "trials")
    assert done.returncode == 0, done.stderr
    assert "\\x1b]52;c;aGk=" in done.stdout
    assert harmless(done.stdout)


def test_settings(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f"response_prefix = {json.dumps(EVIL[:20])}\n")
    (tmp_path / "Snakefile").touch()
    for arguments in (("show-config",), ("show-config", "--json")):
        done = heretic(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert harmless(done.stdout)
    assert json.loads(done.stdout)["response_prefix"]["value"] == EVIL[:20]


def test_texts_in_a_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>{{ text }}</p><p title='{{ text }}'>{{ number }}</p>")
    monkeypatch.setattr(parts, "__file__", str(tmp_path / "parts.py"))
    page = render("page.html", {"text": f"<b>{EVIL}", "number": 3})
    assert harmless(page)
    assert "&lt;b&gt;a\\x1b]52" in page
    assert page.endswith("3</p>")
