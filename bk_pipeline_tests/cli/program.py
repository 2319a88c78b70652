"""`bk-pipeline` in a process of its own, as a shell has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("bk-pipeline")


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
