"""`kill -9` at random moments of a delivery, with restarts until it is done."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.cost import Cost, cost_of
from benchmarks.killed import Deliveries, Order
from benchmarks.scenes import BATCH, TARGETS, HastyClock, day_of
from bk_pipeline.deliver.delivery import Guarantee
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.sandbox.server import Sandbox

KILLS = 50
BUILDS = 200
SEED = 11
# A delivery is killed within this multiple of its undisturbed duration, unless it has ended.
SHARE = 0.6


@contextmanager
def deliveries() -> Iterator[Deliveries]:
    """Run the process that delivers for the duration of the block."""
    process = Deliveries()
    try:
        yield process
    finally:
        process.close()


def killed(
    process: Deliveries,
    sandbox: Sandbox,
    url: str,
    *,
    target: str,
    guarantee: Guarantee,
    folder: Path,
) -> Cost:
    """Return the cost of 50 kills, over as many days as are needed for them."""
    chance = random.Random(SEED)  # noqa: S311  # moments, no secrets
    total, kills = Cost(), 0
    whole_s = 0.0
    for name in ("warm-up.sqlite", "undisturbed.sqlite"):
        began = time.perf_counter()
        process.run(_order(sandbox, url, target, guarantee, folder / name))
        whole_s = time.perf_counter() - began
    for day in range(KILLS):
        if kills == KILLS:
            break
        _forget(sandbox)
        path = folder / f"killed-{day}.sqlite"
        order = _order(sandbox, url, target, guarantee, path)
        in_doubt = 0
        while kills < KILLS and not process.run(
            order, kill_after_s=chance.uniform(0, SHARE * whole_s)
        ):
            kills += 1
            in_doubt += _in_doubt(path)
        if kills == KILLS:
            process.run(order)
        made = day_of(BUILDS)
        total += cost_of(sandbox, TARGETS[target], made, path, in_doubt=in_doubt)
    if kills < KILLS:
        raise RuntimeError(f"{target}: killed {kills} times, not {KILLS}")
    return total


def _order(sandbox: Sandbox, url: str, target: str, guarantee: Guarantee, path: Path) -> Order:
    return Order(target, url, sandbox.honeycomb_key, str(path), BUILDS, BATCH, guarantee.value)


def _in_doubt(path: Path) -> int:
    """Return the spans in doubt after a kill; none if there is no ledger yet."""
    with Ledger.open(path, clock=HastyClock()) as ledger:
        return sum(ledger.summary(name).in_doubt for name in ledger.destinations())


def _forget(sandbox: Sandbox) -> None:
    sandbox.honeycomb.reset()
    sandbox.otlp.reset()
