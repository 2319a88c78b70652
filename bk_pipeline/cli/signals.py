"""SIGINT and SIGTERM: exit within five seconds of the signal, even if something hangs.

Python handles a signal in the main thread, between two bytecodes, and Dagster's handler may only
record it. So the signal number also goes through a pipe to a watcher thread, which interrupts all
waits (`clock.py`) and ends the process if unwinding takes too long. No data is lost: requests
without a response are in doubt in the ledger, as after a crash.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import FrameType

from bk_pipeline import clock
from bk_pipeline.display import printable

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Time for unwinding and the summary. After it the process ends.
EXIT_AFTER_S = 3.9
FLUSH_S = 0.6
# Added to the signal number, as shells do.
EXIT_STATUS = 128

_summaries: list[Callable[[], None]] = []


@contextmanager
def summing_up(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` to print a summary if the process must be ended inside the block.

    This happens if the block cannot be interrupted, for example in a database query without a
    response. `tell` runs in a separate thread. Otherwise the caller prints the summary.
    """
    _summaries.append(tell)
    try:
        yield
    finally:
        _summaries.remove(tell)


class _Caught:
    """The first signal received, and whether it was raised in the main thread."""

    def __init__(self) -> None:
        self.number = 0
        self.raised = False

    def handle(self, number: int, _: FrameType | None) -> None:
        """Interrupt the main thread once: a second signal must not break the unwinding."""
        self.number = self.number or number
        if not self.raised:
            self.raised = True
            raise KeyboardInterrupt

    def watch(self, pipe: int) -> None:
        """Wait for a signal, then stop all waits and make sure that the process ends."""
        while number := os.read(pipe, 1):
            if number[0] in SIGNALS:
                self.number = self.number or number[0]
                clock.PROCESS.request()
                threading.Event().wait(EXIT_AFTER_S)
                self.leave()
        os.close(pipe)

    def leave(self) -> None:
        """End the process now."""
        message = (
            f"bk-pipeline: stopped by {self.name} during an operation that cannot be "
            "interrupted. What is stored and sent is kept.\n"
        )
        # In a thread, because flushing blocks if nothing reads the output.
        flush = threading.Thread(target=_finish, args=(message,), daemon=True)
        flush.start()
        flush.join(FLUSH_S)
        os._exit(EXIT_STATUS + self.number)

    @property
    def name(self) -> str:
        """The signal's name, like `SIGTERM`."""
        return signal.Signals(self.number).name


@contextmanager
def stoppable() -> Iterator[None]:
    """End the block and the process on SIGINT and SIGTERM, with exit status 130 and 143.

    The first signal raises KeyboardInterrupt in the main thread. The last output is what the
    block prints while it unwinds. A nested block has no effect. After a signal, this does not
    return.
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
            # After a signal, any other exception is a result of the interruption.
            if not caught.number:
                raise
            sys.stderr.write(printable(f"bk-pipeline: stopped by {caught.name}.\n"))
        if caught.number:
            # Not by sys.exit: the watcher thread cannot run while the interpreter shuts down,
            # which takes seconds on a busy machine.
            _flush()
            os._exit(EXIT_STATUS + caught.number)


def _may_install() -> bool:
    """Return False inside another such block, or outside of the main thread."""
    before = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return threading.current_thread() is threading.main_thread() and not isinstance(before, _Caught)


def _install(caught: _Caught, restored: ExitStack) -> None:
    """Install `caught` as the signal handler."""
    reading, writing = os.pipe()
    threading.Thread(target=caught.watch, args=(reading,), name="bk-signals", daemon=True).start()
    os.set_blocking(writing, False)
    restored.callback(os.close, writing)
    restored.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writing))
    restored.callback(setattr, sys, "unraisablehook", sys.unraisablehook)
    sys.unraisablehook = partial(_report_unraisable, sys.unraisablehook, caught)
    for number in SIGNALS:
        # A signal that is ignored at start (nohup, a background job) stays ignored.
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
            restored.callback(signal.signal, number, handler)
            signal.signal(number, caught.handle)


def _report_unraisable(
    report: Callable[[sys.UnraisableHookArgs], object],
    caught: _Caught,
    args: sys.UnraisableHookArgs,
) -> None:
    """Report an error that Python cannot raise, unless it is the interruption.

    A signal handler may run inside a callback of the garbage collector, where its exception is
    lost. The stop is recorded all the same, and the next wait raises it.
    """
    if not caught.number and issubclass(args.exc_type, Exception):
        report(args)


def _finish(message: str) -> None:
    for tell in _summaries:
        with suppress(Exception):
            tell()
    _flush(message)


def _flush(message: str = "") -> None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.write(printable(message))
        sys.stderr.flush()
