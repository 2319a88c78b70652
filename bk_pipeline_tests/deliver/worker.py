"""Runs deliveries in separate processes, to be killed.

Reads one order (JSON) per line from standard input and forks a child for each delivery. Prints
`began <pid>`, after each batch `batch <accepted so far>`, and `ended <exit status>` (-9 for a
killed child). Forking saves each child the second that imports take.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from bk_pipeline.deliver.delivery import DeliveryPolicy, Guarantee
from bk_pipeline.deliver.honeycomb.destination import Honeycomb
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.ledger.store import Ledger
from bk_pipeline_tests.deliver.tables import DAY, tables

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


class NoonClock:
    """A clock that is always at noon of the same day; sleeping is real."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def report(*words: object) -> None:
    # A single write, so that the lines of several children do not mix.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


# Built before the fork, once for all children.
made = cache(tables)


def run_delivery(order: dict) -> None:
    clock = NoonClock()
    honeycomb = Honeycomb(order["url"], order["key"], "ci", clock=clock)
    honeycomb.limits = replace(honeycomb.limits, batch_items=order["batch_items"])
    with (
        Ledger.open(Path(order["ledger"]), clock=clock) as ledger,
        ledger.delivery_lock(honeycomb.name, DAY),
    ):
        deliver(
            made(order["builds"]),
            day=DAY,
            destination=honeycomb,
            ledger=ledger,
            clock=clock,
            policy=DeliveryPolicy(Guarantee(order["guarantee"]), order["in_flight"]),
            on_progress=lambda so_far: report("batch", so_far.accepted),
        )


def main() -> None:
    children: set[int] = set()
    for line in sys.stdin:
        orders = json.loads(line)
        for order in orders:
            made(order["builds"])
            pid = os.fork()
            if pid == 0:
                run_delivery(order)
                os._exit(0)
            children.add(pid)
            report("began", pid)
        while children:
            pid, status = os.wait()
            children.discard(pid)
            report("ended", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
