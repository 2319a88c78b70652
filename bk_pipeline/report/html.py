"""A report as one HTML file: no script, nothing that is loaded from elsewhere, light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.resources import files

from bk_pipeline.display import escape_html, html_link
from bk_pipeline.report.blocks import (
    NO_ROWS,
    Block,
    Cell,
    Column,
    Heading,
    Paragraph,
    Picture,
    Table,
    more_rows,
)
from bk_pipeline.report.style import GRID, INK, QUIET, WAITED

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# The colors of pictures that are legible on any ground become those of the page.
COLORS = {INK: "--ink", QUIET: "--quiet", GRID: "--line", WAITED: "--waited"}
PROLOG = re.compile(rb"^.*?(?=<svg)|<metadata>.*?</metadata>", re.DOTALL)
IDS = re.compile(r'(?<=\bid=")|(?<=url\(#)|(?<=href="#)')


def html(title: str, subtitle: str, blocks: Iterable[Block]) -> str:
    """Return a page with the blocks, and a list of its sections."""
    blocks = list(blocks)
    heads = [one.text for one in blocks if isinstance(one, Heading)]
    contents = "".join(
        f'<li><a href="#s{number}">{escape_html(head)}</a></li>'
        for number, head in enumerate(heads)
    )
    body = "\n".join(_numbered(blocks))
    style = (files(__package__) / "report.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape_html(title)}</title>
<style>
{style}</style>
</head>
<body>
<header><h1>{escape_html(title)}</h1><p>{escape_html(subtitle)}</p></header>
<nav><ul>{contents}</ul></nav>
<main>
{body}
</main>
</body>
</html>
"""


def _numbered(blocks: Sequence[Block]) -> Iterable[str]:
    section = 0
    for number, block in enumerate(blocks):
        match block:
            case Heading():
                yield f'<h2 id="s{section}">{escape_html(block.text)}</h2>'
                section += 1
            case Paragraph():
                yield f"<p>{escape_html(block.text)}</p>"
            case Picture():
                label = escape_html(block.text)
                svg = _svg(block.svg, number)
                yield f'<figure role="img" aria-label="{label}">{svg}</figure>'
            case Table():
                yield _table(block)


def _svg(svg: bytes, number: int) -> str:
    """Return a picture that can stand in the page beside others: its ids are its own."""
    text = IDS.sub(f"p{number}-", PROLOG.sub(b"", svg).decode())
    for color, name in COLORS.items():
        text = text.replace(color, f"var({name})")
    return text


def _table(table: Table) -> str:
    if not table.rows:
        return f"<p>{NO_ROWS}</p>"
    head = "".join(f"<th{_class(one)}>{escape_html(one.head)}</th>" for one in table.columns)
    rows = "\n".join(
        "<tr>"
        + "".join(
            f"<td{_class(column)}>{_cell(cell)}</td>"
            for column, cell in zip(table.columns, row, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    more = more_rows(table)
    after = f"<p>{more}</p>" if more else ""
    return (
        f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n'
        f"</table></div>{after}"
    )


def _class(column: Column) -> str:
    return ' class="number"' if column.is_number else ""


def _cell(cell: Cell) -> str:
    return html_link(escape_html(cell.text), cell.page)
