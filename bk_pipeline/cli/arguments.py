"""What `commands.py` declares commands with: groups, types of arguments. Imports click only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from difflib import get_close_matches
from importlib.abc import MetaPathFinder
from typing import Any

import click

from bk_pipeline.display import printable
from bk_pipeline.tokens import redact_tokens


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


class _Time(click.ParamType[int]):
    """A time in Unix seconds, or in RFC 3339 with a time zone."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdecimal():
            return int(value)
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
        if at is None or at.tzinfo is None:
            self.fail(
                f"expected Unix seconds or a time like 2026-11-01T12:30:00Z, got {value!r}",
                param,
                ctx,
            )
        return int(at.timestamp())


TIME = _Time()


class _Assignment(click.ParamType[tuple[str, str]]):
    """A name and a value, like since=2026-11-01."""

    name = "NAME=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not (name.isidentifier() and equals):
            self.fail(f"expected NAME=VALUE, got {value!r}", param, ctx)
        return name, text


ASSIGNMENT = _Assignment()


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator that adds several options to a command, in this order."""

    def decorate(command: Any) -> Any:
        for one in reversed(decorators):
            command = one(command)
        return command

    return decorate


class Suggesting(click.Group):
    """A group that suggests the nearest command for an unknown one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` begin with.

        Raises:
            click.UsageError: There is no such command.
        """
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(
                f"No such command {args[0]!r}.{did_you_mean(args[0], self.list_commands(ctx))}"
            )
        return super().resolve_command(ctx, args)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean backfill?`, or an empty string if no known name is similar."""
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


# Old name: new name. An old name works for one release and prints the new one.
RENAMED = {"set-aside": "quarantined"}


class Program(Suggesting):
    """The group of all commands, in the order in which they are declared."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the names of the commands."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve an old name to its command, with a message on standard error."""
        if args and args[0] in RENAMED:
            from bk_pipeline.cli.output import echo  # noqa: PLC0415  # Rich is slow to import

            old, new = args[0], RENAMED[args[0]]
            echo(
                f"bk-pipeline: {old} is now {new}. The old name will be removed in the next "
                f"version: run bk-pipeline {new}.",
                err=True,
            )
            args = [new, *args[1:]]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        """Write the first line of each command's help, not shortened."""
        lines = [(name, (one.help or "").partition("\n")[0]) for name, one in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(lines)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments; errors do not repeat tokens."""
        with _tokens_redacted():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; usage errors do not repeat tokens."""
        with _tokens_redacted():
            return super().invoke(ctx)


class TakingQuery(click.Command):
    """A command whose argument may begin with a comment of SQL, which looks like an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments."""
        return super().parse_args(ctx, [f" {one}" if one[:3] == "-- " else one for one in args])


class NoPandas(MetaPathFinder):
    """A block in which pandas is not found, for commands that have no use for it.

    pyarrow tries to import it before it converts its first Python values, and does without if
    it cannot. That saves more time than the rest of such a command takes.
    """

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002  # importlib's signature
        """Refuse pandas, and leave all other modules to others."""
        if name == "pandas":
            raise ModuleNotFoundError("This command does without pandas.", name=name)


@contextmanager
def _tokens_redacted() -> Iterator[None]:
    """Redact tokens in the usage errors of the block."""
    try:
        yield
    except click.ClickException as exc:
        exc.message = printable(redact_tokens(exc.message))  # type: ignore[misc]  # its one text
        raise
