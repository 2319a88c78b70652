"""The replay of queues: how exact it is in sandboxes, and how long a month takes.

Each sandbox has its own seed and a week of builds that compete for agents. The replay of the record
is compared with the record; the replay with two more agents in each queue with a sandbox that has
them (whose random numbers differ, so that only the distribution of waits can agree).
"""

from __future__ import annotations

import time
from datetime import date, timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.figures import Bound, Figure, Report
from benchmarks.routes.ours import tables_of_payloads
from bk_pipeline.analysis.queries import query_text
from bk_pipeline.analysis.queue_record import record_of
from bk_pipeline.analysis.queues import Answer, compare
from bk_pipeline.analysis.sql import Database
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.world import World
from bk_pipeline.spans.model import SpanOptions
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import PartSummary, SpanPart, SpanStore
from bk_pipeline.units import NS_PER_S, S_PER_DAY

SEEDS, DAYS, BUILDS, MORE = (1, 2, 3), 6, 400, 2
MONTH_DAYS, MONTH_BUILDS = 30, 2_000
TODAY = date(2026, 11, 20)
LATER_MS = 30 * S_PER_DAY * 1_000
PART = SpanPart("20261001T000000.000000Z-00000000", "00000000")
PERIOD = {"since": "2026-11-01", "until": "2026-11-30"}
MOST_ERROR, MOST_MONTH_S = 0.05, 60
MIB = 1024


def run(scratch: Path) -> Report:
    """Run the benchmark and return its report."""
    rows, errors = [], []
    for seed in SEEDS:
        before = _answer(_jobs(scratch, seed, 0), MORE)
        true = _answer(_jobs(scratch, seed, MORE), 0)
        others = {(one.cluster_id, one.queue): one.recorded for one in true.queues}
        for one in before.queues:
            other = others[one.cluster_id, one.queue]
            waits = (one.recorded, one.replayed, one.changed, other)
            rows.append(
                (
                    f"{seed} {one.queue} {one.cluster_id[:4]}",
                    f"{one.jobs:,}",
                    f"{one.agents} -> {one.agents_changed}",
                    *(f"{wait.p95_s:.1f}" for wait in waits),
                    *(f"{wait.mean_s:.1f}" for wait in waits),
                    f"{one.error or 0:.1%}",
                )
            )
        errors.append(before.error or 0.0)
    month_s, jobs = _month(scratch)
    return Report(
        title=f"queues: {len(SEEDS)} sandboxes of {DAYS + 1} days, {BUILDS} builds a day",
        columns=(
            "seed, queue",
            "jobs",
            "agents",
            "p95 recorded",
            "replayed",
            f"with {MORE} more",
            "true",
            "mean recorded",
            "replayed",
            f"with {MORE} more",
            "true",
            "error",
        ),
        rows=rows,
        figures=[
            Figure("queues.replay_error", max(errors), Bound(most=MOST_ERROR)),
            Figure("analysis.queues_month_s", month_s, Bound(most=MOST_MONTH_S)),
        ],
        notes=[
            "Waits in seconds. error: differences between replayed and recorded waits, of all waits.",
            f"The month has {jobs:,} jobs, replayed twice: as recorded and changed.",
        ],
    )


def _answer(jobs: pa.Table, more: int) -> Answer:
    record = record_of(jobs)
    lengths = dict.fromkeys(record.builds, 0.0)
    return compare(record, lambda level: level + more, lambda _: True, lengths)


def _jobs(scratch: Path, seed: int, more: int, days: int = DAYS, builds: int = BUILDS) -> pa.Table:
    """Return the jobs of a sandbox, by way of its span table."""
    world = World(seed, days, builds, TODAY, limited_agents=True, more_agents=more)
    store = SpanStore(Folder(str(scratch / f"queues-{seed}-{more}-{builds}")))
    first, last = world.first_and_last_day()
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        found = [build_as_of(one, one.created_ms + LATER_MS) for one in world.builds(day)]
        payloads = [msgspec.json.encode(one) for one in found if one and one["finished_at"]]
        tables = list(tables_of_payloads(payloads, SpanOptions()))
        store.write(day.isoformat(), PART, tables, PartSummary())
    datasets = store.datasets()
    with Database(datasets.single, datasets.several, memory_mib=MIB) as database:
        return database.table(query_text("queue_jobs"), PERIOD)


def _month(scratch: Path) -> tuple[float, int]:
    """Return the seconds for a month, one day repeated, and its number of jobs."""
    day = _jobs(scratch, 1, 0, 0, MONTH_BUILDS)
    tables = []
    for number in range(MONTH_DAYS):
        table = day
        for name in ("ready_ns", "start_ns", "end_ns"):
            moved = pc.add(day[name], number * S_PER_DAY * NS_PER_S)
            table = table.set_column(table.schema.get_field_index(name), name, moved)
        for name in (one for one in day.column_names if one.endswith("_id")):
            ids = pc.binary_join_element_wise(day[name], str(number), "-")
            if name != "cluster_id":
                table = table.set_column(table.schema.get_field_index(name), name, ids)
        tables.append(table)
    month = pa.concat_tables(tables)
    began = time.perf_counter()
    _answer(month, MORE)
    return time.perf_counter() - began, month.num_rows
