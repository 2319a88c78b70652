"""Progress of a backfill: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from datetime import timedelta

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from bk_pipeline.cli.output import Console
from bk_pipeline.lines import LINE_EVERY_S, Lines
from bk_pipeline.text import counted

# The estimate uses the last days only: days that were done before take no time.
DAYS_AVERAGED = 10


class Advance:
    """The number of days done of `total`, with an estimate of the time left."""

    def __init__(self, total: int, now: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self.made = ""
        self._now = now
        self._ends: deque[float] = deque([now()], maxlen=DAYS_AVERAGED + 1)

    def day_done(self, made: str) -> None:
        """Record a completed day; `made` describes what all days have made so far."""
        self.done += 1
        self.made = made
        self._ends.append(self._now())

    @property
    def left(self) -> str:
        """Like "about 0:12:34 left"; empty before the first day is done, and after the last."""
        days = len(self._ends) - 1
        if not days or self.done >= self.total:
            return ""
        seconds = (self._ends[-1] - self._ends[0]) / days * (self.total - self.done)
        return f"about {timedelta(seconds=round(seconds))} left"

    def __str__(self) -> str:
        parts = (f"{self.done} of {counted(self.total, 'day')}", self.made, self.left)
        return ", ".join(part for part in parts if part)


class Log:
    """Prints the progress every few seconds, and each wait."""

    def __init__(
        self, console: Console, advance: Advance, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._advance = advance
        self._lines = Lines(self._print, now)

    def tell(self, line: str) -> None:
        """Show `line` as the current activity."""
        self._lines.progress(f"{self._advance}. {line}")

    def wait(self, line: str) -> None:
        """Show `line` as the reason for a wait."""
        self._lines.wait(f"{self._advance}. {line}")

    def day_done(self, made: str) -> None:
        """Record a completed day; `made` describes what all days have made so far."""
        self._advance.day_done(made)
        self._lines.progress(f"{self._advance}.")

    def say(self, line: str) -> None:
        """Print `line` at once."""
        self._lines.write(line)

    def shown(self) -> AbstractContextManager[object]:
        """Return a context in which the progress is shown."""
        return closing(self._lines)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Bar:
    """A progress bar with days, builds, spans, and time, below the current activity."""

    def __init__(
        self, console: Console, advance: Advance, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._now = now
        self._wait_shown_at = -math.inf
        self._advance = advance
        self._line = Text(style="dim", no_wrap=True, overflow="ellipsis")
        self._bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("days  {task.description}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=advance.total)

    @property
    def line(self) -> str:
        """The text above the bar."""
        return self._line.plain

    def tell(self, line: str) -> None:
        """Show `line` as the current activity."""
        # Other threads continue during a wait, and would overwrite its line at once.
        if self._now() - self._wait_shown_at >= LINE_EVERY_S:
            self._line.plain = line

    def wait(self, line: str) -> None:
        """Show `line` as the reason for a wait."""
        self._wait_shown_at = self._now()
        self._line.plain = line

    def day_done(self, made: str) -> None:
        """Record a completed day; `made` describes what all days have made so far."""
        self._advance.day_done(made)
        description = "  ".join(part for part in (made, self._advance.left) if part)
        self._bar.update(self._task, completed=self._advance.done, description=description)

    def say(self, line: str) -> None:
        """Print `line` at once."""
        self._console.print(line, markup=False, highlight=False)

    def shown(self) -> AbstractContextManager[object]:
        """Return a context in which the progress is shown."""
        return Live(Group(self._line, self._bar), console=self._console, refresh_per_second=4)


def shown_on(console: Console, days: int) -> Bar | Log:
    """Return a bar if `console` can redraw lines, otherwise a log.

    A CI log cannot redraw lines, even if FORCE_COLOR turns colors on.
    """
    drawn_over = console.file.isatty() and not console.is_dumb_terminal
    return (Bar if drawn_over else Log)(console, Advance(days))
