"""What a report is made of, before it is Markdown or HTML. All texts are plain and unescaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bk_pipeline.display import Page


@dataclass(frozen=True, slots=True)
class Heading:
    """The title of a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG picture; `text` says what it shows."""

    text: str
    svg: bytes


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table; `page` is where it leads."""

    text: str
    page: Page | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column; numbers stand on the right."""

    head: str
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        columns: The columns.
        rows: The rows that are shown, with a cell per column.
        left_out: How many more rows there are.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    left_out: int = 0


Block = Heading | Paragraph | Picture | Table
NO_ROWS = "None."


def more_rows(table: Table) -> str:
    """Return the sentence that says how many rows are left out; empty if none are."""
    return f"{table.left_out:,} more." if table.left_out else ""
