"""SIGINT and SIGTERM: from the signal to the exit in less than five seconds, whatever hangs.

Python handles a signal in the main thread, between two bytecodes, and Dagster's handler may only
note it. So the signal's number also goes through a pipe to a thread: that one tells everything
that waits (`stopping.py`), and ends the process if unwinding takes too long. That loses nothing:
what has left without an answer is in doubt in the ledger, as after a crash.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

from bk_pipeline import stopping

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# For unwinding and the summary, after which nothing is waited for any more.
EXIT_AFTER_S = 3.9
FLUSH_S = 0.6
# Shells' custom for a program that a signal ended.
EXIT_STATUS = 128

_summaries: list[Callable[[], None]] = []


@contextmanager
def summing_up(tell: Callable[[], None]) -> Iterator[None]:
    """A block of which `tell` prints the summary if the process has to be ended in it.

    That is where the block is in something that cannot be interrupted, like a query that a
    server does not answer. `tell` runs in a thread of its own; otherwise the caller prints.
    """
    _summaries.append(tell)
    try:
        yield
    finally:
        _summaries.remove(tell)


class _Caught:
    """The first signal that came, and whether the main thread knows of it."""

    def __init__(self) -> None:
        self.number = 0
        self.raised = False

    def handle(self, number: int, _: FrameType | None) -> None:
        """Interrupt the main thread, once: a second signal must not break the unwinding."""
        self.number = self.number or number
        if not self.raised:
            self.raised = True
            raise KeyboardInterrupt

    def watch(self, pipe: int) -> None:
        """Wait for a signal; then tell everybody, and see to it that the process ends."""
        while number := os.read(pipe, 1):
            if number[0] in SIGNALS:
                self.number = self.number or number[0]
                stopping.PROCESS.request()
                threading.Event().wait(EXIT_AFTER_S)
                self.leave()
        os.close(pipe)

    def leave(self) -> None:
        """End the process now."""
        words = (
            f"bk-pipeline: stopped by {self.name} in the midst of something that cannot be "
            "interrupted. What is stored and sent is kept.\n"
        )
        # What was printed may wait in a buffer, and whoever should read it may not.
        flush = threading.Thread(target=_finish, args=(words,), daemon=True)
        flush.start()
        flush.join(FLUSH_S)
        os._exit(EXIT_STATUS + self.number)

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name


@contextmanager
def stoppable() -> Iterator[None]:
    """A block that SIGINT and SIGTERM end, and the process with it: exit status 130 and 143.

    The first signal raises KeyboardInterrupt in the main thread. What the block prints while
    it unwinds is the last that is printed. Inside of another such block this does nothing.

    It does not return after a signal.
    """
    caught = _Caught()
    with ExitStack() as restored:
        if not _may_install():
            yield
            return
        try:
            _install(caught, restored)
            yield
        except SystemExit:
            if not caught.number:
                raise
        except (KeyboardInterrupt, Exception):
            # Any other error is one of being interrupted somewhere.
            if not caught.number:
                raise
            sys.stderr.write(f"bk-pipeline: stopped by {caught.name}.\n")
        if caught.number:
            # Not by sys.exit: while the interpreter takes itself apart, which is a matter of
            # seconds on a busy machine, the thread that watches cannot run.
            _flush()
            os._exit(EXIT_STATUS + caught.number)


def _may_install() -> bool:
    """False where signals are handled by an outer block, or are another thread's affair."""
    before = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return threading.current_thread() is threading.main_thread() and not isinstance(before, _Caught)


def _install(caught: _Caught, restored: ExitStack) -> None:
    """Have signals handled by `caught`."""
    reading, writing = os.pipe()
    threading.Thread(target=caught.watch, args=(reading,), name="bk-signals", daemon=True).start()
    os.set_blocking(writing, False)
    restored.callback(os.close, writing)
    restored.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writing))
    for number in SIGNALS:
        # Who starts us deaf to a signal (nohup, a shell's background) wants us to be.
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
            restored.callback(signal.signal, number, handler)
            signal.signal(number, caught.handle)


def _finish(words: str) -> None:
    for tell in _summaries:
        with suppress(Exception):
            tell()
    _flush(words)


def _flush(words: str = "") -> None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.write(words)
        sys.stderr.flush()
