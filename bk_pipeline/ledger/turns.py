"""Taking turns: one delivery of a day to a destination at a time.

What is in doubt when a turn begins is therefore from runs that have ended. What only the
holder of a turn may write goes through the locks of that turn: should they be lost with a
connection, it stops there, and does not come between those who have them now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TypeVar

from sqlalchemy import Connection

from bk_pipeline.clock import Clock
from bk_pipeline.errors import RetryableError
from bk_pipeline.ledger.database import Database, Locks

T = TypeVar("T")
FIRST_LOOK_S = 0.1
LONGEST_LOOK_S = 2.0
# A wait is announced if it is longer than this.
QUIET_S = 1.0


class Turns:
    """The turns that one ledger has taken. For several threads at once."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._held: dict[tuple[str, str], Locks] = {}

    @contextmanager
    def take(
        self,
        destination: str,
        days: Iterable[str],
        *,
        on_wait: Callable[[str], None] | None,
        deadline_s: float,
    ) -> Iterator[Locks]:
        """A block that only one process or thread is in, for this destination and these days.

        Days are taken in order, so that two who want several do not wait for each other.

        Raises:
            RetryableError: Somebody else is in it for longer than `deadline_s`.
        """
        until = self._clock.monotonic() + deadline_s
        held: dict[tuple[str, str], Locks] = {}
        with closing(self._database.locks()) as locks:
            for day in sorted(days):
                pause_s, began_at, announced = FIRST_LOOK_S, self._clock.monotonic(), False
                while not locks.try_lock(f"{destination}\0{day}"):
                    if self._clock.monotonic() >= until:
                        raise RetryableError(
                            f"Another run has been delivering {day} to {destination} for more "
                            f"than {deadline_s:.0f} s. Run again when it has ended."
                        )
                    waited_s = self._clock.monotonic() - began_at
                    if on_wait is not None and not announced and waited_s >= QUIET_S:
                        announced = True
                        on_wait(f"{day}: waiting for another run that delivers it to {destination}")
                    self._clock.sleep(pause_s)
                    pause_s = min(pause_s * 2, LONGEST_LOOK_S)
                held[destination, day] = locks
            self._held.update(held)
            try:
                yield locks
            finally:
                for key in held:
                    del self._held[key]

    def write(self, destination: str, day: str) -> AbstractContextManager[Connection]:
        """A transaction under the turn that this ledger has for the day, if it has it."""
        return self._writer(destination, day).write()

    def do(self, destination: str, day: str, work: Callable[[Connection], T]) -> T:
        """`Database.do` under the turn that this ledger has for the day, if it has it."""
        return self._writer(destination, day).do(work)

    def _writer(self, destination: str, day: str) -> Locks | Database:
        return self._held.get((destination, day), self._database)
