"""What jobs and builds cost: prices by minute, applied to the columns of a span table. Pure.

The cost of a command job is the time from its start to its end, times the first price that matches
it. A job that no agent started costs 0; block and trigger steps have no cost. A build costs what all
attempts of its jobs cost together. Without a matching price there is no cost, and a build of which
only some jobs have a price costs what these do.

Prices are applied before the privacy settings, so dropping a queue does not change a cost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
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


class _Jobs:
    """Jobs with the columns `JOB_COLUMNS`, whose texts are tested once for each distinct one."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._encoded: dict[str, tuple[list[str | None], NDArray[np.int64]]] = {}

    def where(self, name: str, test: Test, *, of_null: bool = False) -> Mask:
        """Return `test` of the text that each job has in a column, or `of_null`."""
        if name not in self._encoded:
            column = self._table[name].combine_chunks()
            encoded = column if column.type == DICTIONARY else column.dictionary_encode()
            texts = encoded.dictionary.to_pylist()
            # Nulls have the last index, that of None.
            self._encoded[name] = [*texts, None], np.asarray(encoded.indices.fill_null(len(texts)))
        texts, indices = self._encoded[name]
        return np.array([of_null if one is None else test(one) for one in texts])[indices]

    def meets(self, condition: str, globs: Sequence[str]) -> Mask:
        """Return for each job whether it has a value that is included, and none that is excluded."""
        included = Globs(tuple(glob for glob in globs if not glob.startswith("!")))
        excluded = [glob[1:] for glob in globs if glob.startswith("!")]
        found = self._any_value(condition, lambda value: value in included)
        if excluded:
            found &= ~self._any_value(condition, lambda value: matches(value, excluded))
        return found

    def _any_value(self, condition: str, test: Test) -> Mask:
        """Return for each job whether `test` is true for a value that the condition is about."""
        if condition == ON_QUEUE:
            # An agent that is unknown had the queue that the job asked for.
            default = test(DEFAULT_QUEUE)
            asked = self.where(RULES, lambda text: test(requested_queue(text)), of_null=default)
            unknown = self.where(QUEUE, lambda _: False, of_null=True)
            return self.where(QUEUE, test) | (unknown & asked)
        if condition.startswith(ON_TAG):
            tag = f"{condition.removeprefix(ON_TAG)}="
            return self.where(TAGS, lambda text: any(map(test, _values(text, tag))))
        some: Mask = np.any([self.where(one, test) for one in CONDITION_COLUMNS[condition]], axis=0)
        return some


def requested_queue(rules: str) -> str:
    """Return the queue that a job asked for with its agent query rules (JSON text)."""
    found = REQUESTED_QUEUE.search(rules)
    return found[1] if found else DEFAULT_QUEUE


def _values(tags: str, prefix: str) -> Iterator[str]:
    """Yield the values of the tags that begin with `prefix`, from the JSON text of a column."""
    return (one[len(prefix) :] for one in msgspec.json.decode(tags) if one.startswith(prefix))


def job_costs(table: pa.Table, prices: Prices) -> Numbers:
    """Return the cost of each command job in `table` (`JOB_COLUMNS`); NaN if it has no price."""
    jobs = _Jobs(table)
    starts, ends = (np.asarray(table[name].cast(pa.int64())) for name in ("start", "end"))
    minutes = np.where(_true(table[STARTED]), ends - starts, 0) / NS_PER_MINUTE
    per_minute = np.full(len(starts), np.nan)
    undecided = np.ones(len(starts), bool)
    for price in prices.prices:
        chosen = undecided & (starts >= price.since_ns)
        for condition, globs in price.conditions:
            chosen &= jobs.meets(condition, globs)
        per_minute[chosen] = price.per_minute
        undecided &= ~chosen
    return np.round(per_minute * minutes, DECIMALS)


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
    return _true(pc.equal(column.cast(pa.string()), text))


def _true(column: Any) -> Mask:
    return np.asarray(pc.fill_null(column, fill_value=False), bool)
