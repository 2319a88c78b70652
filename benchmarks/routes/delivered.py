"""Ours, as `pipeline.deliver_day` does it: encoder, loop, several requests at once, ledger.

The ledger is a new SQLite file for each run, every batch written down twice. Warm-up is a
delivery of a few spans to a path that the sink forgets, with a ledger of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import mkdtemp

import pyarrow as pa

from benchmarks.measured import Work
from benchmarks.parts import DAY, tables_in
from benchmarks.sink import WARM_UP
from bk_pipeline.clock import SystemClock
from bk_pipeline.deliver.destination import Destination
from bk_pipeline.deliver.honeycomb import Honeycomb
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.deliver.otlp import Otlp, OtlpSettings
from bk_pipeline.ledger.store import Ledger

DATASET = "bench"
CLOCK = SystemClock()

Open = Callable[[str, str], Destination]


def honeycomb(part: str, url: str) -> Work:
    """The work of delivering, from memory, to Honeycomb."""
    return _work(honeycomb_destination, list(tables_in(part)), part, url)


def otlp(part: str, url: str) -> Work:
    """The same, to an OTLP endpoint."""
    return _work(otlp_destination, list(tables_in(part)), part, url)


def honeycomb_from_disk(part: str, url: str) -> Work:
    """The same to Honeycomb, from Parquet, a row group at a time."""
    return _work(honeycomb_destination, tables_in(part), part, url)


def otlp_from_disk(part: str, url: str) -> Work:
    """The same to an OTLP endpoint."""
    return _work(otlp_destination, tables_in(part), part, url)


def honeycomb_destination(url: str, place: str) -> Destination:
    return Honeycomb(url, "key", place, clock=CLOCK, max_age=None)


def otlp_destination(url: str, place: str) -> Destination:
    return Otlp(OtlpSettings(f"{url}/{place}/v1/traces"), clock=CLOCK)


def _work(open_: Open, tables: Iterable[pa.Table], part: str, url: str) -> Work:
    folder = Path(mkdtemp(dir=Path(part).parent))
    few = next(tables_in(part))[:1_000]
    delivered([few], open_(url, WARM_UP), folder / "warm-up.sqlite")

    def work() -> dict[str, float]:
        return {"spans": delivered(tables, open_(url, DATASET), folder / "ledger.sqlite")}

    return work


def delivered(tables: Iterable[pa.Table], destination: Destination, path: Path) -> int:
    """How many were accepted, with a new ledger at `path`."""
    with (
        Ledger.open(path, clock=CLOCK) as ledger,
        ledger.delivery_lock(destination.name, DAY),
    ):
        done = deliver(tables, day=DAY, destination=destination, ledger=ledger, clock=CLOCK)
    return done.accepted
