"""What several threads want to write at once, in one transaction: one commit for all.

A commit waits for the disk, and that is most of what a short transaction takes. So whoever
has the turn to write does so for all who wait for it. Each of them goes on when its own work
is committed, not before; and should the common transaction fail, on account of whomever,
nothing of it is written, and each does its work in a transaction of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Lock
from typing import Any, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")
Write = Callable[[], AbstractContextManager[Connection]]


class Together:
    """Joins the work of threads on one database. For several threads at once."""

    def __init__(self) -> None:
        self._turn = Lock()
        self._waiting: deque[_Job] = deque()

    @property
    def waiting(self) -> int:
        """How many threads wait to be written for."""
        return len(self._waiting)

    def do(self, work: Callable[[Connection], T], *, write: Write) -> T:
        """What `work` returns, once it is committed.

        Args:
            work: May be called twice; what it did the first time is undone by then.
            write: `Database.write`, of the same database each time.

        Raises:
            Exception: What `work`, or a transaction with nothing else in it, raises.
        """
        job = _Job(work)
        self._waiting.append(job)
        with self._turn:
            if not (job.done or job.alone):
                self._do_waiting(write)
            if not job.done:
                with write() as connection:
                    job.result = work(connection)
        result: T = job.result
        return result

    def _do_waiting(self, write: Write) -> None:
        """Do the work of all who wait; without an error they are `done`."""
        # Only who has the turn takes any away, so there are at least so many.
        jobs = [self._waiting.popleft() for _ in range(len(self._waiting))]
        for job in jobs:
            job.alone = True
        try:
            with write() as connection:
                for job in jobs:
                    job.result = job.work(connection)
        except Exception:
            if len(jobs) == 1:
                raise
            return
        for job in jobs:
            job.done = True


class _Job:
    """One thread's work.

    Attributes:
        done: It is committed, and `result` is what it returned.
        alone: It is to be done in a transaction of its own, unless it is `done`.
    """

    __slots__ = ("alone", "done", "result", "work")

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.done = False
        self.alone = False
