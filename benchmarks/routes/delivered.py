"""Our route, as in `pipeline.deliver_day`: encoder, loop, concurrent requests, ledger.

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
from bk_pipeline.deliver.honeycomb.destination import Honeycomb
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.deliver.otlp.endpoint import Otlp
from bk_pipeline.deliver.otlp.settings import OtlpSettings
from bk_pipeline.ledger.store import Ledger

DATASET = "bench"
CLOCK = SystemClock()

Open = Callable[[str, str], Destination]


def honeycomb(part: str, url: str) -> Work:
    """Return the work of delivering from memory to Honeycomb."""
    return _work(honeycomb_destination, list(tables_in(part)), part, url)


def otlp(part: str, url: str) -> Work:
    """Return the work of delivering from memory to an OTLP endpoint."""
    return _work(otlp_destination, list(tables_in(part)), part, url)


def honeycomb_from_disk(part: str, url: str) -> Work:
    """Return the work of delivering to Honeycomb from Parquet, a row group at a time."""
    return _work(honeycomb_destination, tables_in(part), part, url)


def otlp_from_disk(part: str, url: str) -> Work:
    """Return the work of delivering to an OTLP endpoint from Parquet."""
    return _work(otlp_destination, tables_in(part), part, url)


def honeycomb_destination(url: str, place: str) -> Destination:
    """Return a Honeycomb destination at the sink."""
    return Honeycomb(url, "key", place, clock=CLOCK, max_age=None)


def otlp_destination(url: str, place: str) -> Destination:
    """Return an OTLP destination at the sink."""
    return Otlp(OtlpSettings(f"{url}/{place}/v1/traces"), clock=CLOCK)


def _work(open_: Open, tables: Iterable[pa.Table], part: str, url: str) -> Work:
    folder = Path(mkdtemp(dir=Path(part).parent))
    few = next(tables_in(part))[:1_000]
    delivered([few], open_(url, WARM_UP), folder / "warm-up.sqlite")

    def work() -> dict[str, float]:
        return {"spans": delivered(tables, open_(url, DATASET), folder / "ledger.sqlite")}

    return work


def delivered(tables: Iterable[pa.Table], destination: Destination, path: Path) -> int:
    """Deliver with a new ledger at `path`; return the number of accepted spans."""
    with (
        Ledger.open(path, clock=CLOCK) as ledger,
        ledger.delivery_lock(destination.name, DAY),
    ):
        done = deliver(tables, day=DAY, destination=destination, ledger=ledger, clock=CLOCK)
    return done.accepted
