"""Output of the command line: all text is sanitized by `bk_pipeline.display.printable`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich import console as rich_console
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from bk_pipeline.display import printable
from bk_pipeline.errors import FatalError
from bk_pipeline.private_files import make_file


def echo(message: str, *, err: bool = False) -> None:
    """Print a line."""
    click.echo(printable(message), err=err)


def line_of(fields: Iterable[str]) -> None:
    """Print fields separated by tabs. White space within a field becomes single spaces."""
    echo("\t".join(" ".join(field.split()) for field in fields))


def tell(line: str) -> None:
    """Print a line to standard error."""
    echo(line, err=True)


def sentence(total: Counter[str]) -> str:
    """Return counts as a sentence."""
    counts = ", ".join(f"{count:,} {what}" for what, count in total.items() if count)
    return f"{counts}." if counts else "Nothing to do."


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file, private to the user, that replaces `path` if the block succeeds.

    Raises:
        FatalError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        try:
            make_file(temporary)
            with temporary.open("wb") as file:
                yield file
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise FatalError(f"Cannot write {path}: {exc.strerror}.") from exc


class Console(rich_console.Console):
    """A Rich console that shows text as it is: no markup, no emoji codes, no escape sequences."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def status(self, status: Any, **options: Any) -> Status:
        """Return a spinner with a line of text, for work that takes a while."""
        return _Status(status, console=self, **options)

    def render(self, *arguments: Any, **named: Any) -> Iterable[Segment]:
        """Render as Rich does, with sanitized text."""
        for segment in super().render(*arguments, **named):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


class _Status(Status):
    """A spinner that does not read markup, which Rich does for any text beside a spinner."""

    def __init__(self, status: Any, **options: Any) -> None:
        super().__init__(_plain(status), **options)

    def update(self, status: Any = None, **options: Any) -> None:
        """Show another text beside the spinner."""
        super().update(_plain(status), **options)


def _plain(text: Any) -> Any:
    return Text(text) if isinstance(text, str) else text
