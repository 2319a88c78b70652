"""All that the command line prints goes through here, cleaned (`bk_pipeline.display.printable`)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from difflib import get_close_matches
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


class _Day(click.ParamType[date]):
    """A date like 2026-11-01."""

    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        try:
            day = date.fromisoformat(value)
        except ValueError:
            day = None
        if day is None or day.isoformat() != value:
            self.fail(f"expected YYYY-MM-DD, got {value!r}", param, ctx)
        return day


DAY = _Day()


class Suggesting(click.Group):
    """A group that names the nearest command if there is none of the name that was given."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` begin with.

        Raises:
            click.UsageError: There is none.
        """
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(
                f"No such command {args[0]!r}.{did_you_mean(args[0], self.list_commands(ctx))}"
            )
        return super().resolve_command(ctx, args)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean backfill?`, or nothing if no known word is near."""
    near = get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""
