"""All that the command line prints goes through here, cleaned (`bk_pipeline.display.printable`)."""

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
    """Print a line for programs: fields between tabs, with none of either inside."""
    echo("\t".join(" ".join(field.split()) for field in fields))


class Console(rich_console.Console):
    """Rich's, which lets escape sequences through that stand in what it is given."""

    def render(self, *arguments: Any, **named: Any) -> Iterable[Segment]:
        """As Rich's, of clean text."""
        for segment in super().render(*arguments, **named):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)
