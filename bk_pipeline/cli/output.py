"""Output of the command line: all text is sanitized by `bk_pipeline.display.printable`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
from rich import console as rich_console
from rich.segment import Segment

from bk_pipeline.display import printable


def echo(message: str, *, err: bool = False) -> None:
    """Print a line."""
    click.echo(printable(message), err=err)


def line_of(fields: Iterable[str]) -> None:
    """Print fields separated by tabs. White space within a field becomes single spaces."""
    echo("\t".join(" ".join(field.split()) for field in fields))


class Console(rich_console.Console):
    """A Rich console that removes escape sequences from the text it prints."""

    def render(self, *arguments: Any, **named: Any) -> Iterable[Segment]:
        """Render as Rich does, with sanitized text."""
        for segment in super().render(*arguments, **named):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)
