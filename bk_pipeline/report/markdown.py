"""A report as Markdown, as Dagster's UI shows it."""

from __future__ import annotations

from collections.abc import Iterable

from bk_pipeline.display import escape_markdown, link, picture
from bk_pipeline.report.blocks import (
    NO_ROWS,
    Block,
    Cell,
    Heading,
    Paragraph,
    Picture,
    Table,
    more_rows,
)

# Dagster keeps metadata for ever: a picture that is larger is left out as a whole.
LARGEST_PICTURE_BYTES = 100_000


def markdown(blocks: Iterable[Block]) -> str:
    """Return the blocks as Markdown, with everything escaped that comes from builds."""
    return "\n\n".join(map(_block, blocks))


def _block(block: Block) -> str:
    match block:
        case Heading():
            return f"### {escape_markdown(block.text)}"
        case Paragraph():
            return escape_markdown(block.text)
        case Picture():
            shown = picture(block.text, block.svg)
            if len(shown) > LARGEST_PICTURE_BYTES:
                return (
                    f"The picture ({escape_markdown(block.text)}) would take {len(shown):,} bytes; "
                    "it is left out."
                )
            return shown
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    if not table.rows:
        return NO_ROWS
    lines = [
        [escape_markdown(one.head) for one in table.columns],
        ["---:" if one.is_number else "---" for one in table.columns],
        *([_cell(one) for one in row] for row in table.rows),
    ]
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    more = more_rows(table)
    return f"{shown}\n\n{more}" if more else shown


def _cell(cell: Cell) -> str:
    # Names and numbers with units stay on one line; `escape_markdown` makes the spaces plain.
    text = escape_markdown(cell.text)
    return link(text, cell.page)
