"""`bk-pipeline` in a process of its own, as a shell has it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("bk-pipeline")
# What a shell starts in the background is deaf to Ctrl-C, and so would be what we start.
MINDFUL = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def run(
    *arguments: str, stdin: str | None = None, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What it prints and how it exits, with `environment` on top of the test's clean one."""
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
        [sys.executable, "-c", MINDFUL, PROGRAM, *arguments],
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
    """Ask until it is so: nothing else tells how far another process has come."""
    deadline = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.1)
