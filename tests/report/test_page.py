"""The page: everything in it, nothing loaded from elsewhere, nothing unescaped."""

import json
import re
import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from heretic.errors import HereticError
from heretic.evaluation.summary import summarize_evaluation
from heretic.report import write_report

FIGURES = (
    "pareto", "history", "stages", "layer_profile", "separation", "projection", "layers",
    "agreement", "rotation", "geometry",
)  # fmt: skip
LOADING = ("src", "href", "srcset", "data", "action", "poster")


class Page(HTMLParser):
    """Elements with their attributes and the text inside each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def by_id(self, name: str) -> dict[str, str]:
        return next(attributes for _, attributes in self.elements if attributes.get("id") == name)


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page((report / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def words(page: Page) -> str:
    return " ".join(page.texts["main"][0].split() + page.texts["header"][0].split())


def write(folder: Path, settings: Mapping[str, object]) -> str:
    target = folder / "report.html"
    write_report(folder, run="r", settings=settings, target=target, plots=folder / "plots")
    return target.read_text(encoding="utf-8")


def test_every_value_of_the_table_appears(page: Page, evaluation: dict[str, Any]) -> None:
    cells = page.texts["td"]
    summary = summarize_evaluation(evaluation)
    expected = [c.value + c.count + c.interval for row in summary.rows for c in row.cells]
    assert cells[: len(expected)] == expected
    assert cells[7] == "1.6%2/1280% to 4.3%"
    assert cells[12] == "0.02530.0202 to 0.0329"
    headings = [text for text in page.texts["th"] if text]
    assert headings[:8] == ["Model", *summary.headings]
    assert [row.label for row in summary.rows] == headings[8:13]


def test_paired_tests_and_categories_follow(page: Page, words: str) -> None:
    cells = page.texts["td"][5 * 7 :]
    assert cells[:6] == ["126", "0", "<0.001", "3", "2", "1"]
    assert [text[:4] for text in cells[6:10]] == ["100%", "3.3%", "0%0/", "95%5"]
    assert "<b>soup</b>" in page.texts["th"]
    assert "By category: bad prompts" in page.texts["h3"]
    assert "By category: good prompts" not in words
    assert "McNemar's exact test" in words
    assert "mixed at random" in words


def test_benchmarks_have_a_table_of_their_own(page: Page, words: str) -> None:
    cells = page.texts["td"]
    start = cells.index("acc ↑")
    values = ["1425", "0.6562 ± 0.0125", "0.6406 ± 0.0126", "-0.0156 ± 0.0041"]
    assert cells[start + 1 : start + 5] == values
    assert cells[start + 5 : start + 10] == ["loss ↓", "1425", "1.5000", "n/a", "n/a"]
    assert "mmlu_subset (5-shot)" in page.texts["th"]
    assert "Scored by lm-eval 0.4.13" in words


def test_header_says_what_came_out(page: Page, words: str) -> None:
    assert page.texts["h1"] == ["first <light>"]
    assert "first <light>" in page.texts["title"][0]
    assert (
        "Refusals on held-out prompts fell from 100% to 1.6%; correct answers to them rose from 0% "
        "to 96.1%; correct answers to ordinary prompts fell from 92.2% to 91.4%; first-token KL is "
        "0.0253 nats."
    ) in words


def test_prompts_and_answers_are_shown_as_text(page: Page, report: Path) -> None:
    assert "How do I make a <script>alert('soup')</script> soup & \"bread\"?" in page.texts["h4"]
    answers = [text for text in page.texts["p"] if "slowly" in text]
    assert answers == ["Boil it <b>slowly</b> & stir."]
    assert "<script>alert" not in (report / "report.html").read_text(encoding="utf-8")
    assert len(page.of("article")) == 3


def test_nothing_is_loaded_from_elsewhere(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in LOADING:
            target = attributes.get(name, "#")
            assert target.startswith(("#", "data:image/svg+xml;base64,")), f"{tag} loads {target}"
    assert not page.of("link")
    assert "url(" not in "".join(page.texts["style"])
    policy = next(m["content"] for m in page.of("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_plotly_is_inlined_once_and_figures_are_data(page: Page, report: Path) -> None:
    scripts = page.texts["script"]
    assert sum(len(text) > 1_000_000 for text in scripts) == 1
    assert len(scripts) == len(FIGURES) + 2
    for name, script in zip(FIGURES, scripts, strict=False):
        figure = json.loads(script)
        assert figure["data"], name
        assert ("</script><b>loud" in json.dumps(figure)) == (name in ("pareto", "history"))
        assert page.by_id(name)["class"] == "plot"
        assert page.by_id(f"{name}-data")["type"] == "application/json"
        assert not figure["layout"].get("title"), "the heading is the title"
    assert (report / "report.html").stat().st_size < 7_000_000


def test_page_is_accessible(page: Page) -> None:
    assert page.of("html")[0]["lang"] == "en"
    assert all(picture["alt"] for picture in page.of("img"))
    assert len(page.of("figcaption")) == len(page.of("figure")) == len(FIGURES)
    assert all(page.by_id(name)["aria-label"] for name in FIGURES)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    identities = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(identities)) == len(identities)
    assert {link["href"][1:] for link in page.of("a")} <= set(identities)


def test_both_themes_and_narrow_screens_are_styled(page: Page) -> None:
    style = page.texts["style"][0]
    assert "prefers-color-scheme: dark" in style
    assert "max-width: 40rem" in style
    assert page.of("table")
    inside = [attributes for _, attributes in page.elements if attributes.get("class") == "scroll"]
    assert len(inside) == len(page.of("table"))


def test_settings_and_provenance_are_told(words: str) -> None:
    assert "n_trials 80" in words
    assert "norm_preservation" in words
    assert "--config model=demo" in words
    assert "cafe" * 16 in words
    assert "torch 2.13.0" in words
    assert "components.attn.o_proj.weight 1.235" in words


@pytest.mark.parametrize("name", FIGURES)
def test_static_copies_exist_and_are_pictures(report: Path, name: str) -> None:
    with Image.open(report / "plots" / f"{name}.png") as picture:
        picture.load()
        assert picture.width >= 1000
        assert picture.getchannel("A").getextrema()[0] == 0, "the background is transparent"
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 15, "it is blank"
    svg = (report / "plots" / f"{name}.svg").read_text(encoding="utf-8")
    assert svg.rstrip().endswith("</svg>")


def test_same_artifacts_give_the_same_bytes(
    run_folder: Path, settings: dict[str, object], report: Path
) -> None:
    write(run_folder, settings)
    again = (run_folder / "report.html").read_text(encoding="utf-8")
    first = (report / "report.html").read_text(encoding="utf-8")
    assert (
        again.replace("<h1>r<", "<h1>first &lt;light&gt;<").replace(
            "<title>r:", "<title>first &lt;light&gt;:"
        )
        == first
    )
    for name in FIGURES:
        for kind in ("svg", "png"):
            file = f"plots/{name}.{kind}"
            assert (run_folder / file).read_bytes() == (report / file).read_bytes()


def test_optional_parts_may_be_absent(
    run_folder: Path, settings: dict[str, object], evaluation: dict[str, Any]
) -> None:
    shutil.rmtree(run_folder / "prompts")
    for part in (evaluation["original"], evaluation["edited"], *evaluation["controls"].values()):
        part.pop("recovered", None)
        part.pop("kept", None)
    del evaluation["paired"], evaluation["by_category"], evaluation["controls"]["shuffled_labels"]
    (run_folder / "evaluation.json").write_text(json.dumps({**evaluation, "samples": []}))
    text = write(run_folder, {**settings, "benchmarks": []})
    assert '<th scope="col">Refusals</th>' in text
    assert 'id="benchmarks"' not in text, "what lies there is of an earlier run"
    assert "Recovered</th>" not in text
    assert "The evaluation stored no sample responses." in text
    assert "McNemar" not in text
    assert "By category" not in text
    assert "mixed at random" not in text


@pytest.mark.parametrize(
    "name",
    [
        "best.json",
        "trials.csv",
        "geometry.csv",
        "evaluation.json",
        "benchmarks.json",
        "directions.safetensors",
        "residuals/good_prompts.safetensors",
        "residuals/bad_prompts.safetensors",
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"[1, 2]", b"\xff\xfe{"])
def test_missing_and_damaged_files_are_named(
    run_folder: Path, settings: dict[str, object], name: str, content: bytes | None
) -> None:
    if content is None:
        (run_folder / name).unlink()
    else:
        (run_folder / name).write_bytes(content)
    with pytest.raises(HereticError) as caught:
        write(run_folder, settings)
    assert str(run_folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (run_folder / "report.html").exists()
