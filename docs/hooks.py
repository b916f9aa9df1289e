"""Make Markdown files outside of docs/ pages of the site, with working links.

Files link to each other by relative paths in the repository, as GitHub requires. This module maps
these paths to those of the site. A page outside of docs/ has the same path on the site as in the
repository; other linked files, such as configuration examples, are copied.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parent.parent
DOCS = "docs/"
# Files whose path on the site differs: index.md is the home page, and MkDocs would give README.md
# the same URL.
RENAMED = {"README.md": "overview.md"}
ORIGINS = {uri: path for path, uri in RENAMED.items()}
FENCE = re.compile(r"^ *(`{3,}|~{3,})", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#\s:]+)(?P<rest>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the nav that are outside of docs/, and other files that pages link to."""
    for uri in _entries(config.nav):
        if files.get_file_from_path(uri) is None and (REPOSITORY / _path_of(uri)).is_file():
            _add(uri, files, config)
    for page in list(files.documentation_pages()):
        for target in _targets(page.content_string, page.src_uri):
            uri = _uri_of(target)
            if files.get_file_from_path(uri) is None and (REPOSITORY / target).is_file():
                if uri.endswith(".md"):
                    continue  # reported as a broken link: the nav must list it
                _add(uri, files, config)
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Replace paths in the repository by paths on the site."""
    here = page.file.src_uri

    def replace(link: re.Match[str]) -> str:
        uri = _uri_of(_resolved(link["path"], here))
        if files.get_file_from_path(uri) is None:
            return link[0]
        return posixpath.relpath(uri, posixpath.dirname(here) or ".") + (link["rest"] or "")

    return "".join(part if code else LINK.sub(replace, part) for part, code in _parts(markdown))


def _entries(nav: Any) -> Iterator[str]:
    """Yield the paths of a nav, which consists of lists, mappings and strings."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _entries(part)


def _add(uri: str, files: Files, config: MkDocsConfig) -> None:
    source = str(REPOSITORY / _path_of(uri))
    files.append(File.generated(config, uri, abs_src_path=source))


def _path_of(uri: str) -> str:
    """Return the path in the repository of a file outside of docs/."""
    return ORIGINS.get(uri, uri)


def _uri_of(path: str) -> str:
    """Return the path on the site of a file of the repository."""
    return RENAMED.get(path, path.removeprefix(DOCS))


def _resolved(path: str, uri: str) -> str:
    """Return the path in the repository of a link target on the page at `uri`."""
    origin = _path_of(uri)
    inside = (REPOSITORY / DOCS / uri).is_file()
    folder = posixpath.dirname(f"{DOCS}{uri}" if inside else origin)
    return posixpath.normpath(posixpath.join(folder, path))


def _targets(markdown: str, uri: str) -> Iterator[str]:
    for part, code in _parts(markdown):
        if not code:
            yield from (_resolved(link["path"], uri) for link in LINK.finditer(part))


def _parts(markdown: str) -> Iterator[tuple[str, bool]]:
    """Yield the text between fences and the fenced code, each with whether it is code."""
    fence, part = "", ""
    for line in markdown.splitlines(keepends=True):
        found = FENCE.match(line)
        if not fence and found:
            yield part, False
            fence, part = found[1], line
        elif fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            yield part + line, True
            fence, part = "", ""
        else:
            part += line
    yield part, bool(fence)
