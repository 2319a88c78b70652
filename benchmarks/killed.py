"""Runs deliveries in separate processes that can be killed; `Deliveries` starts them.

The process imports everything once and forks a child for each delivery, which saves each
the second that imports take.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from benchmarks.scenes import PATIENT, TARGETS, HastyClock, day_of, send, small_batches
from bk_pipeline.deliver.delivery import Guarantee
from bk_pipeline.ledger.store import Ledger

SETTLED = 0


@dataclass(frozen=True, slots=True)
class Order:
    """The task of a child process."""

    target: str
    url: str
    key: str
    ledger: str
    builds: int
    batch_items: int
    guarantee: str


class Deliveries:
    """The process that forks the children."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.killed"]
        self._process = subprocess.Popen(  # noqa: S603  # our own
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, order: Order, *, kill_after_s: float | None = None) -> bool:
        """Run a delivery, and return whether it ended before it was killed.

        Raises:
            RuntimeError: It ended in an error.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        pid = int(self._line())
        killer = threading.Timer(kill_after_s or 0, os.kill, (pid, signal.SIGKILL))
        if kill_after_s is not None:
            killer.start()
        status = int(self._line())
        killer.cancel()
        if status not in {SETTLED, -signal.SIGKILL}:
            raise RuntimeError(f"a delivery ended with status {status}")
        return status == SETTLED

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


# Created before the fork, so that kills hit the delivery and not its start-up.
made = cache(day_of)


def _carry_out(order: Order) -> None:
    clock = HastyClock()
    target = TARGETS[order.target]
    opened = target.open(order.url, order.key, clock, PATIENT)
    destination = small_batches(opened, order.batch_items)
    with Ledger.open(Path(order.ledger), clock=clock) as ledger:
        send(
            made(order.builds),
            destination=destination,
            ledger=ledger,
            clock=clock,
            guarantee=Guarantee(order.guarantee),
        )


def main() -> None:
    """Fork a child for each order on standard input."""
    for line in sys.stdin:
        order = Order(**json.loads(line))
        made(order.builds)
        pid = os.fork()
        if pid == 0:
            _carry_out(order)
            os._exit(SETTLED)
        _say(pid)
        _, status = os.waitpid(pid, 0)
        _say(os.waitstatus_to_exitcode(status))


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
