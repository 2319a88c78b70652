"""A question about a month in SQL: the 95th percentile of builds by pipeline and day.

One generated day of 2,000 builds is stored on each of 30 days. A process of its own answers after
its imports, several times; the median counts, and so does the most memory that it ever had.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from shutil import copyfile
from statistics import median

import msgspec
import pyarrow as pa

from benchmarks.corpus import DAY, LATER_MS, SEED
from benchmarks.figures import Bound, Figure, Report
from benchmarks.measured import Work, measured
from benchmarks.routes.ours import tables_of_payloads
from bk_pipeline.analysis.sql import Database
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.world import World
from bk_pipeline.spans.model import SpanOptions
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import PartSummary, SpanPart, SpanStore

DAYS, BUILDS, ROUNDS = 30, 2_000, 5
MIB = 1024 * 1024
PART = SpanPart("20261001T000000.000000Z-00000000", "00000000")
FIRST = date(2026, 10, 1)
MOST_S, MOST_MIB = 2, 512
QUERY = """
SELECT pipeline, day, count(*) AS builds, quantile_cont(run_s, 0.95) AS p95_s
FROM builds WHERE day >= '2026-10-01' GROUP BY pipeline, day
"""


def run(scratch: Path) -> Report:
    """Run the benchmark and return its report."""
    folder = scratch / "sql"
    spans = _store(folder)
    rounds = [measured("benchmarks.sql:month", str(folder)) for _ in range(ROUNDS)]
    seconds = median(one.seconds for one in rounds)
    mib = max(one.rss_bytes for one in rounds) / MIB
    return Report(
        title=f"sql: p95 by pipeline and day, {DAYS} days of {BUILDS:,} builds",
        columns=("spans", "rows", "seconds", "MiB"),
        rows=[(f"{spans:,}", f"{rounds[0].counts['rows']:,.0f}", f"{seconds:.2f}", f"{mib:.0f}")],
        figures=[
            Figure("sql.month_s", seconds, Bound(most=MOST_S)),
            Figure("sql.month_mib", mib, Bound(most=MOST_MIB)),
        ],
        notes=[f"Median time and greatest resident memory of {ROUNDS} processes, after imports."],
    )


def month(folder: str) -> Work:
    """Return the work: list the store, open it, and answer."""

    def work() -> dict[str, float]:
        datasets = SpanStore(Folder(folder)).datasets()
        with Database(datasets.single, datasets.several, memory_mib=MOST_MIB) as database:
            _, batches = database.query(QUERY)
            return {"rows": sum(batch.num_rows for batch in batches)}

    return work


def _store(folder: Path) -> int:
    """Write the month, and return its number of spans."""
    tables = day_tables()
    days = [(FIRST + timedelta(days=number)).isoformat() for number in range(DAYS)]
    SpanStore(Folder(str(folder))).write(days[0], PART, tables, PartSummary())
    name = f"{PART.name}.parquet"
    for day in days[1:]:
        (folder / "spans" / day).mkdir()
        copyfile(folder / "spans" / days[0] / name, folder / "spans" / day / name)
    spans: int = sum(table.num_rows for table in tables)
    return DAYS * spans


def day_tables() -> list[pa.Table]:
    """Return the span tables of the day."""
    world = World(seed=SEED, days=1, builds_per_day=BUILDS, today=DAY)
    builds = (build_as_of(one, one.created_ms + LATER_MS) for one in world.builds(DAY))
    return list(tables_of_payloads(map(msgspec.json.encode, builds), SpanOptions()))
