"""What jobs and builds cost: prices by minute, applied to the columns of a span table. Pure.

The cost of a command job is the time from its start to its end, times the first price that matches
it. A job that no agent started costs 0; block and trigger steps have no cost. A build costs what all
attempts of its jobs cost together. Without a matching price there is no cost, and a build of which
only some jobs have a price costs what these do.

Prices are applied before the privacy settings, so dropping a queue does not change a cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bk_pipeline.spans.columns import DICTIONARY
from bk_pipeline.spans.derived import DEFAULT_QUEUE
from bk_pipeline.spans.model import SpanKind, SpanStatus
from bk_pipeline.text import Globs, matches
from bk_pipeline.units import NS_PER_MINUTE

COST, CURRENCY = "bk_pipeline.cost", "bk_pipeline.currency"
RETRIES_COST, FAILURES_COST = "bk_pipeline.retries_cost", "bk_pipeline.failures_cost"
# A millionth of the currency, so that sums show no noise of binary fractions.
DECIMALS = 6

QUEUE, RULES = "buildkite.agent.queue", "buildkite.job.agent_query_rules"
TAGS = "buildkite.agent.meta_data"
JOB_ID, RETRY_OF = "buildkite.job.id", "buildkite.job.retry_source.job_id"
RETRIED, RETRIED_IN = "buildkite.job.retried", "buildkite.job.retried_in_job_id"
STARTED = "buildkite.job.started"
# The columns whose values the globs of a condition match; `queue` and tags have functions.
CONDITION_COLUMNS = {
    "pipeline": ("buildkite.pipeline.slug",),
    "cluster": ("buildkite.cluster.name", "buildkite.cluster.id"),
}
ON_QUEUE, ON_TAG = "queue", "tags."
JOB_COLUMNS = (
    *("start", "end", "status", STARTED, QUEUE, RULES, TAGS),
    *(JOB_ID, RETRY_OF, RETRIED, RETRIED_IN),
    *(name for names in CONDITION_COLUMNS.values() for name in names),
)
REQUESTED_QUEUE = re.compile(r'"queue=([^"]*)"')

Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]
Test = Callable[[str], bool]


class Price(msgspec.Struct, frozen=True):
    """The price of the jobs that meet all conditions.

    Attributes:
        id: Its name, for messages.
        per_minute: What a minute of a running job costs.
        since_ns: It is for jobs that started at or after this time, in Unix nanoseconds.
        conditions: Globs by what they match: `queue`, `pipeline`, `cluster`, or `tags.<key>`.
    """

    id: str
    per_minute: float
    since_ns: int = 0
    conditions: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Prices(msgspec.Struct, frozen=True):
    """A currency, and the prices in the order in which they are tried: the first match counts."""

    currency: str
    prices: tuple[Price, ...]


def with_costs(table: pa.Table, prices: Prices | None) -> pa.Table:
    """Return `table` with its columns of costs filled, if there are prices.

    Args:
        table: Whole builds, the root of each first, before the privacy settings.
        prices: The prices; None leaves the columns null.
    """
    if prices is None or not len(table):
        return table
    is_root = _equals(table["name"], SpanKind.BUILD)
    is_job = _equals(table["name"], SpanKind.JOB) & _equals(table["buildkite.job.type"], "script")
    roots, rows = np.flatnonzero(is_root), np.flatnonzero(is_job)
    jobs = table.select(JOB_COLUMNS).take(pa.array(rows))
    costs = job_costs(jobs, prices)
    builds = (np.cumsum(is_root) - 1)[rows]
    priced = ~np.isnan(costs)
    has_cost = np.bincount(builds[priced], minlength=len(roots)) > 0

    def column(included: Mask, of_jobs: Numbers | None = None) -> pa.Array:
        """Return the sums of the jobs `included` on the roots, and values on the rows of jobs."""
        chosen = included & priced
        sums = np.bincount(builds[chosen], weights=costs[chosen], minlength=len(roots))
        values = np.full(len(table), np.nan)
        values[roots] = np.where(has_cost, np.round(sums, DECIMALS), np.nan)
        if of_jobs is not None:
            values[rows] = of_jobs
        return pa.array(values, mask=np.isnan(values))

    cost = column(priced, costs)
    currency = pa.array(np.zeros(len(table), np.int32), mask=~np.asarray(cost.is_valid()))
    columns = {
        COST: cost,
        CURRENCY: pa.DictionaryArray.from_arrays(currency, pa.array([prices.currency])),
        RETRIES_COST: column(_retried(jobs, builds)),
        FAILURES_COST: column(_equals(jobs["status"], SpanStatus.ERROR)),
    }
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), values)
    return table


def job_costs(jobs: pa.Table, prices: Prices) -> Numbers:
    """Return the cost of each of `jobs`, which have the columns `JOB_COLUMNS`; NaN if unknown."""
    starts, ends = (np.asarray(jobs[name].cast(pa.int64())) for name in ("start", "end"))
    minutes = np.where(_true(jobs[STARTED]), ends - starts, 0) / NS_PER_MINUTE
    per_minute = np.full(len(jobs), np.nan)
    undecided = np.ones(len(jobs), bool)
    for price in prices.prices:
        chosen = undecided & (starts >= price.since_ns)
        for name, globs in price.conditions:
            chosen &= _meets(jobs, name, globs)
        per_minute[chosen] = price.per_minute
        undecided &= ~chosen
    return np.round(per_minute * minutes, DECIMALS)


def _meets(jobs: pa.Table, name: str, globs: Sequence[str]) -> Mask:
    """Return for each job whether it has a value that is included, and none that is excluded."""
    included = Globs(tuple(glob for glob in globs if not glob.startswith("!")))
    excluded = [glob[1:] for glob in globs if glob.startswith("!")]
    some = _any_value(jobs, name, lambda value: value in included)
    return some & ~_any_value(jobs, name, lambda value: matches(value, excluded))


def _any_value(jobs: pa.Table, name: str, test: Test) -> Mask:
    """Return for each job whether `test` is true for a value that the condition `name` is about."""
    if name == ON_QUEUE:
        # An agent that is unknown had the queue that the job asked for.
        requested = _where(
            jobs[RULES], lambda text: test(_requested(text)), of_null=test(DEFAULT_QUEUE)
        )
        known = np.asarray(jobs[QUEUE].is_valid())
        found: Mask = np.where(known, _where(jobs[QUEUE], test), requested)
        return found
    if name.startswith(ON_TAG):
        prefix = f"{name.removeprefix(ON_TAG)}="
        return _where(
            jobs[TAGS],
            lambda text: any(
                test(tag.removeprefix(prefix))
                for tag in msgspec.json.decode(text)
                if tag.startswith(prefix)
            ),
        )
    columns = [_where(jobs[column], test) for column in CONDITION_COLUMNS[name]]
    some: Mask = np.any(columns, axis=0)
    return some


def _requested(rules: str) -> str:
    found = REQUESTED_QUEUE.search(rules)
    return found[1] if found else DEFAULT_QUEUE


def _where(column: pa.ChunkedArray, test: Test, *, of_null: bool = False) -> Mask:
    """Return `test` of each text, calculated once for each distinct one, or `of_null`."""
    found = [np.zeros(0, bool)]
    for chunk in column.chunks:
        encoded = chunk if chunk.type == DICTIONARY else chunk.dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        answers = [of_null if text is None else test(text) for text in texts]
        indices = np.asarray(encoded.indices.fill_null(len(texts)))
        found.append(np.array([*answers, of_null])[indices])
    return np.concatenate(found)


def _retried(jobs: pa.Table, builds: NDArray[np.int64]) -> Mask:
    """Return for each job whether it says that it was retried, or another of its build retries it.

    Args:
        jobs: The jobs.
        builds: The number of each job's build: a table may have a build twice, in two states.
    """
    retries = np.flatnonzero(jobs[RETRY_OF].is_valid())
    sources = jobs[RETRY_OF].take(pa.array(retries)).to_pylist()
    known = set(zip(builds[retries].tolist(), sources, strict=True))
    retried: Mask = _true(jobs[RETRIED]) | np.asarray(jobs[RETRIED_IN].is_valid())
    named = np.asarray(pc.is_in(jobs[JOB_ID], value_set=pa.array(set(sources), pa.string())))
    for row in np.flatnonzero(named & ~retried).tolist():
        retried[row] = (int(builds[row]), jobs[JOB_ID][row].as_py()) in known
    return retried


def _equals(column: Any, text: str) -> Mask:
    return _where(column, lambda value: value == text)


def _true(column: Any) -> Mask:
    return np.asarray(pc.fill_null(column, fill_value=False), bool)
