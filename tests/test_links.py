"""Relative links in Markdown files lead to a file, and to a heading if they name one."""

import re
from itertools import chain, count
from pathlib import Path

import pytest
from conftest import REPOSITORY

FOLDERS = ("config", "docs", "tests", "workflow")
PAGES = sorted(
    chain(REPOSITORY.glob("*.md"), *((REPOSITORY / name).rglob("*.md") for name in FOLDERS))
)
FENCED = re.compile(r"^ *(`{3,}|~{3,}).*?^ *\1", re.DOTALL | re.MULTILINE)
INLINE_CODE = re.compile(r"`[^`\n]+`")
HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]*))?\)")


def text_of(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub derives them."""
    found: set[str] = set()
    for heading in HEADING.findall(text_of(page)):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        base = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        names = chain([base], (f"{base}-{number}" for number in count(1)))
        found.add(next(name for name in names if name not in found))
    return found


def broken_links(page: Path, repository: Path) -> list[str]:
    found = []
    for target, anchor in LINK.findall(INLINE_CODE.sub("", text_of(page))):
        path = (page.parent / target).resolve() if target else page
        inside = path.is_relative_to(repository) and path.exists()
        if not inside or (anchor and anchor not in anchors(path)):
            found.append(f"{target}#{anchor}" if anchor else target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, REPOSITORY.resolve()) == []


def test_every_kind_of_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A *fine* `heading`, twice\n## Same\n## Same\n")
    good = "[a](other.md) [b](other.md#a-fine-heading-twice) [c](other.md#same-1) [d](#here)"
    code = "`[x](none.md)`\n```\n[y](none.md)\n# no heading\n```\n"
    bad = "[e](none.md) [f](other.md#none) [g](#no-heading) [h](../outside.md) ![i](none.png)"
    page = tmp_path / "page.md"
    page.write_text(f"# Here\n{good}\n{code}{bad}\n[j](https://example.org/none#x)")
    (tmp_path.parent / "outside.md").touch()
    wrong = ["none.md", "other.md#none", "#no-heading", "../outside.md", "none.png"]
    assert broken_links(page, tmp_path.resolve()) == wrong
