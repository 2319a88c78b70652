"""Measures work in a separate process: `measured(...)` starts it, `main` runs in it.

Time is what passes during the work alone; imports and a warm-up come before. Peak memory is
the process's highest resident size (Linux: VmHWM, else ru_maxrss) less what it was resident
when the work began, so interpreter, imports and warm-up do not count, on any side.
"""

from __future__ import annotations

import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

STATUS = Path("/proc/self/status")
KIB = 1024

Work = Callable[[], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. `counts` holds the numbers that the work reported.

    `peak_bytes` leaves out what was resident before the work, `rss_bytes` leaves out nothing.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    rss_bytes: int
    counts: dict[str, float] = field(default_factory=dict)


def measured(prepare: str, *args: str) -> Measured:
    """Measure one run of the work that `prepare(*args)` returns, in a new process.

    Args:
        prepare: `module:function`. The function does what is not to be measured and returns
            the work, which returns its counts.
        args: Handed to it.

    Raises:
        subprocess.CalledProcessError: The process failed; its traceback is on stderr.
    """
    command = [sys.executable, "-m", "benchmarks.measured", prepare, *args]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603  # our own
    return Measured(**json.loads(done.stdout))


def main(prepare: str, *args: str) -> None:
    """Prepare and run the work, and print the measurements as JSON."""
    module, _, function = prepare.partition(":")
    work: Work = getattr(importlib.import_module(module), function)(*args)
    resident, _ = _memory()
    cpu, began = time.process_time(), time.perf_counter()
    counts = work()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    _, peak = _memory()
    result = Measured(seconds, cpu, peak - resident, peak, counts)
    sys.stdout.write(json.dumps(asdict(result)))


def _memory() -> tuple[int, int]:
    """Return current and peak resident memory in bytes; without /proc twice the peak."""
    if STATUS.exists():
        # Not ru_maxrss, which Linux inherits from the parent process.
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return _kib(lines["VmRSS"]), _kib(lines["VmHWM"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else KIB
    return peak, peak


def _kib(text: str) -> int:
    return int(text.removesuffix("kB")) * KIB


if __name__ == "__main__":
    main(*sys.argv[1:])
