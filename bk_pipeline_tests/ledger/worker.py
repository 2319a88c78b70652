"""The program that tests of several processes run in each of them."""

from __future__ import annotations

import hashlib
import sys

from bk_pipeline.clock import SystemClock
from bk_pipeline.ledger.store import Ledger

HERE, DAY = "here", "2026-11-19"
SHARED = [b"shared by all..1", b"shared by all..2", b"shared by all..3"]


def settle_many(where: str, number: int, count: int) -> None:
    """Settle batches with a build of this process and builds that all processes add to."""
    with Ledger.open(where, clock=SystemClock()) as ledger:
        for n in range(count):
            own = hashlib.sha256(f"{number}/{n}".encode()).digest()
            items = {own[:16]: [own[16:24]]}
            shared = SHARED if number % 2 else reversed(SHARED)
            items.update({trace_id: [own[24:]] for trace_id in shared})
            batch = ledger.begin(HERE, DAY, items)
            if n % 2:
                ledger.accept(batch)
            else:
                ledger.settle(batch, accepted=items)


def hold(where: str) -> None:
    """Acquire the delivery lock, print "held", and keep it until standard input ends."""
    with Ledger.open(where, clock=SystemClock()) as ledger, ledger.delivery_lock(HERE, DAY):
        print("held", flush=True)  # noqa: T201
        sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        hold(sys.argv[2])
    else:
        settle_many(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
