"""Check of the prices: which queues of the stored jobs have none."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.doctor.findings import CheckResult, Installation, ok, warning
from bk_pipeline.errors import StorageError
from bk_pipeline.spans.costs import (
    COST,
    JOB_COLUMNS,
    QUEUE,
    RULES,
    Prices,
    job_costs,
    requested_queue,
)
from bk_pipeline.spans.derived import DEFAULT_QUEUE
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.store.folder import READ_ERRORS
from bk_pipeline.store.spans import DAY, SpanStore
from bk_pipeline.text import counted, one_line

# Enough for jobs that run on one day of the week only.
DAYS = 7
SHOWN, LONGEST_NAME = 5, 60
CLUSTER, CLUSTER_ID = "buildkite.cluster.name", "buildkite.cluster.id"


def costs(it: Installation) -> CheckResult:
    """Check that the prices are valid and that the jobs of the last stored days have one.

    Raises:
        ConfigError: The file cannot be read or is malformed.
        StorageError: The stored spans cannot be read.
    """
    prices = it.app.prices()
    assert prices is not None
    message = f"{counted(len(prices.prices), 'price')} in {prices.currency}"
    try:
        queues = _queues(it.app.spans(), prices)
    except (OSError, *READ_ERRORS) as exc:
        raise StorageError(
            f"{message}, but the stored spans cannot be read ({type(exc).__name__}). Materialize "
            "spans of the last days."
        ) from exc
    if not queues:
        return ok(f"{message}; no jobs are stored yet.")
    without = sorted(name for name, missing in queues.items() if missing)
    period = f"of the last {counted(DAYS, 'day')} that are stored"
    if not without:
        return ok(f"{message}; all jobs {period} have one ({counted(len(queues), 'queue')}).")
    shown = ", ".join(without[:SHOWN])
    more = f" and {len(without) - SHOWN:,} more" if len(without) > SHOWN else ""
    return warning(
        f"{message}; {len(without):,} of {counted(len(queues), 'queue')} {period} have jobs without a "
        f"price, and so without a cost: {shown}{more}. A last [[price]] without conditions is for all others."
    )


def _queues(store: SpanStore, prices: Prices) -> dict[str, bool]:
    """Return the queues of the last days, by the names to show, and whether jobs lack a price."""
    days = sorted(store.parts_by_day())
    if not days:
        return {}
    first = date.fromisoformat(days[-1]) - timedelta(days=DAYS - 1)
    wanted = (
        (pc.field(DAY) >= pa.scalar(first))
        & (pc.field("name") == SpanKind.JOB.value)
        & (pc.field("buildkite.job.type") == "script")
    )
    columns = [*dict.fromkeys([*JOB_COLUMNS, COST])]
    stored = store.datasets()
    tables = [one.to_table(columns, filter=wanted) for one in (stored.single, stored.several)]
    jobs = pa.concat_tables(tables)
    # A cost that is stored counts too: the privacy settings may hide what the prices are about.
    missing = np.isnan(job_costs(jobs, prices)) & np.asarray(jobs[COST].is_null())
    names = [QUEUE, RULES, CLUSTER, CLUSTER_ID]
    texts = pa.table({name: jobs[name].cast(pa.string()) for name in names})
    groups = texts.append_column("missing", pa.array(missing)).group_by([*names, "missing"])
    found: dict[str, bool] = {}
    for row in groups.aggregate([]).to_pylist():
        name = _name(row)
        found[name] = found.get(name, False) or row["missing"]
    return found


def _name(row: dict[str, Any]) -> str:
    queue = row[QUEUE] or (requested_queue(row[RULES]) if row[RULES] else DEFAULT_QUEUE)
    cluster = row[CLUSTER] or row[CLUSTER_ID]
    shown = one_line(queue, LONGEST_NAME)
    return f"{shown} (cluster {one_line(cluster, LONGEST_NAME)})" if cluster else shown
