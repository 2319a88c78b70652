"""MkDocs hooks: the pages and examples that stand above `docs/`, and links as they are there.

Pages link to each other by their paths in the repository, so that they work there too. In the site,
`docs/` is the top: README.md, CHANGELOG.md, examples and queries stand beside its pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
ABOVE = (*PAGES, "examples/**/*", "bk_pipeline/analysis/queries/*.sql")
ITEM = re.compile(r" *(?:\d+\.|[-*]) +")
CODE_INDENT = 4
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)[^)\s#]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what stands above `docs/`."""
    for path in sorted(one for pattern in ABOVE for one in PROJECT.glob(pattern) if one.is_file()):
        name = path.relative_to(PROJECT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return the page with links as the site has them."""
    folder = "" if page.file.src_uri in PAGES else "docs"
    linked = LINK.sub(
        lambda link: normpath(f"{folder}/{link[0]}".lstrip("/")).removeprefix("docs/"), markdown
    )
    return "\n".join(_indented(linked.splitlines()))


def _indented(lines: list[str]) -> Iterator[str]:
    """Yield lines with four spaces for each level of a list, which Python-Markdown needs.

    Elsewhere, and so in these pages, what belongs to an item begins below its first word. It also
    needs an empty line after an item of several paragraphs.
    """
    levels: list[int] = []  # where the content of each open item begins
    fenced = several = False
    for line in lines:
        text = line.lstrip()
        indent = len(line) - len(text)
        while levels and text and indent < levels[-1] and not fenced:
            levels.pop()
        inside = indent - (levels[-1] if levels else 0)
        marker = ITEM.match(line) if not fenced and inside < CODE_INDENT else None
        if marker and several:
            yield ""
        several = bool(levels) and not marker and (several or not text)
        yield " " * (4 * len(levels) + inside) + text if text else ""
        fenced ^= text.startswith("```")
        if marker:
            levels.append(len(marker[0]))
