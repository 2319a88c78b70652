"""Runs `bk-pipeline` as a separate process, as a shell does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("bk-pipeline")
# A shell starts background processes with SIGINT ignored, and child processes inherit that.
WITH_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def run(
    *arguments: str, stdin: str | None = None, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the program in the test's environment plus `environment`; return output and status."""
    return subprocess.run(
        [PROGRAM, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )


@contextmanager
def started(*arguments: str, cwd: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start the program; it handles Ctrl-C even if the process that runs the tests ignores it."""
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_SIGINT, PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(what: Callable[[], bool], patience_s: float = 120.0) -> None:
    """Poll `what` until it is true: other processes do not report their progress."""
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.1)
