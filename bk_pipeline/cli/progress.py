"""How far a backfill has come: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

# A log, or a person who waits for a pipe, wants a line so often.
LINE_EVERY_S = 10.0
# Days differ, and those that were done before take no time: the last ones tell best.
DAYS_THAT_TELL = 10


class Advance:
    """Days done of `total`, in words; the time left is reckoned from the last days."""

    def __init__(self, total: int, now: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self.made = ""
        self._now = now
        self._ends: deque[float] = deque([now()], maxlen=DAYS_THAT_TELL + 1)

    def day_done(self, made: str) -> None:
        """Another day is through; `made` says what all of them have made."""
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
        parts = (f"{self.done} of {self.total} days", self.made, self.left)
        return ", ".join(part for part in parts if part)


class Lines:
    """Prints where the backfill stands, every few seconds."""

    def __init__(
        self, console: Console, advance: Advance, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._advance = advance
        self._now = now
        self._printed_at = now()

    def tell(self, line: str) -> None:
        """`line` is what is being done at this moment."""
        self._print(f"{self._advance}. {line}")

    def day_done(self, made: str) -> None:
        self._advance.day_done(made)
        self._print(f"{self._advance}.")

    def say(self, line: str) -> None:
        """Print `line` whatever the time."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def shown(self) -> AbstractContextManager[object]:
        return nullcontext()

    def _print(self, line: str) -> None:
        if self._now() - self._printed_at >= LINE_EVERY_S:
            self._printed_at = self._now()
            self.say(line)


class Bar:
    """What is being done at this moment, and below it a bar with days, builds, spans, time."""

    def __init__(self, console: Console, advance: Advance) -> None:
        self._console = console
        self._advance = advance
        self._line = Text(style="dim", no_wrap=True, overflow="ellipsis")
        self._bar = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("days  {task.description}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=advance.total)

    def tell(self, line: str) -> None:
        self._line.plain = line

    def day_done(self, made: str) -> None:
        self._advance.day_done(made)
        words = "  ".join(part for part in (made, self._advance.left) if part)
        self._bar.update(self._task, completed=self._advance.done, description=words)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    def shown(self) -> AbstractContextManager[object]:
        return Live(Group(self._line, self._bar), console=self._console, refresh_per_second=4)


def shown_on(console: Console, days: int) -> Bar | Lines:
    """What suits `console`."""
    return (Bar if console.is_terminal else Lines)(console, Advance(days))
