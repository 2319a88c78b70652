"""Deployments: found among spans by rules, in their order, and DORA's four keys of them. Pure.

Every number of a deployment looks back only: at the deployments of the same service and environment
that ended before it, and at the builds that its change was in before. So a day can be computed from
that day and those before it. `docs/deployments.md` has the definitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from statistics import median
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.analysis.columns import DEPLOYMENTS
from bk_pipeline.analysis.deployment_rules import Rule
from bk_pipeline.spans.matching import QUEUE_MS, RUN_MS, STARTED, WAIT_MS, meets
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.spans.table import add_attributes
from bk_pipeline.spans.timing import from_ns
from bk_pipeline.templates import MISSING, field_named

DEPLOYMENT, ROLLBACK = "deployment", "rollback"
SUCCEEDED, FAILED = "succeeded", "failed"
COMMIT, FIRST_BUILD, TRIGGER, BUILD = "commit", "first_build", "triggering_build", "build"
OUTCOMES = {"passed": SUCCEEDED, "failed": FAILED, "timed_out": FAILED}
UNKNOWN_COMMITS = ("", "HEAD")
# The keys that also make sense of all services together.
TOTALS = (
    *("deployments", "succeeded", "rollbacks", "lead_time_p50_s", "change_failures"),
    *("change_failure_rate", "restores", "restore_p50_s"),
)
JOB_TYPES = ("script", "trigger")

# The columns of a deployment's span, by the names that they get here.
COLUMNS = {
    "trace_id": "trace_id",
    "span_id": "span_id",
    "organization": "buildkite.organization.slug",
    "start": "start",
    "end": "end",
    "pipeline": "buildkite.pipeline.slug",
    "number": "buildkite.build.number",
    "build_id": "buildkite.build.id",
    "build_url": "buildkite.build.web_url",
    "branch": "buildkite.build.branch",
    "commit": "buildkite.build.commit",
    "build_state": "buildkite.build.state",
    "blocked": "buildkite.build.blocked",
    "job_type": "buildkite.job.type",
    "job_state": "buildkite.job.state",
    "passed": "buildkite.job.passed",
    "attempt": "buildkite.job.retries_count",
    "job_url": "buildkite.job.web_url",
    "cost": "bk_pipeline.cost",
    "currency": "bk_pipeline.currency",
}


@dataclass(slots=True)
class Deployment:
    """A row of the table `DEPLOYMENTS`; times are aware, in UTC."""

    day: str
    environment: str
    service: str
    rule: str
    kind: str
    outcome: str
    pipeline: str | None
    build_number: int | None
    build_id: str | None
    url: str | None
    branch: str | None
    repository: str | None
    commit: str | None
    started_at: datetime
    finished_at: datetime
    cost: float | None
    currency: str | None
    organization: str | None = None
    trace_id: str = ""
    span_ids: list[str] = field(default_factory=list)
    committed_at: datetime | None = None
    change_failed: bool = False
    lead_time_s: float | None = None
    lead_time_from: str | None = None
    restore_s: float | None = None
    rolled_back: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)

    @property
    def spans(self) -> list[str]:
        """Its spans, as `rolled_back` and `restored` refer to them."""
        return [f"{self.trace_id}/{span_id}" for span_id in self.span_ids]

    @property
    def is_successful_deployment(self) -> bool:
        """Whether it is a deployment, and succeeded."""
        return (self.kind, self.outcome) == (DEPLOYMENT, SUCCEEDED)

    @property
    def target(self) -> tuple[str, str]:
        """What was deployed to: service and environment."""
        return self.service, self.environment


def columns_for(rules: Iterable[Rule]) -> list[str]:
    """Return the columns of the span table that `rules` need."""
    found = dict.fromkeys(["name", *COLUMNS.values(), RUN_MS, QUEUE_MS, WAIT_MS, STARTED])
    for rule in rules:
        found.update(dict.fromkeys(rule.column_globs))
        found.update((field.name, None) for field in _fields(rule))
    return list(found)


def deployments_in(
    day: str, tables: Iterable[pa.Table], rules: Sequence[Rule]
) -> Iterator[Deployment]:
    """Yield the deployments and rollbacks of a day, without what earlier ones say about them.

    Args:
        day: The partition.
        tables: Whole builds, each once, with the columns of `columns_for`.
        rules: The rules. The first that matches a build or job counts.
    """
    for table in tables:
        # All jobs of a build that deploy the same are one deployment; each retry is another.
        rounds: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for rule, matched in _matched(table, rules):
            roots = _roots(table, matched, rule)
            for row in _rows(matched):
                found = _described(row, roots.get(row["trace_id"], row), rule)
                key = (rule.id, found["service"], found["environment"], row["trace_id"])
                rounds.setdefault((*key, row["attempt"] or 0), []).append(found)
        for rows in rounds.values():
            if (deployment := _deployment(day, rows)) is not None:
                yield deployment


def _matched(table: pa.Table, rules: Sequence[Rule]) -> Iterator[tuple[Rule, pa.Table]]:
    """Yield each rule with the spans that it decides about."""
    for kind in dict.fromkeys(rule.kind for rule in rules):
        spans = _of_kind(table, kind)
        if kind is SpanKind.JOB:
            types = spans["buildkite.job.type"].cast(pa.string())
            spans = spans.filter(pc.is_in(types, value_set=pa.array(JOB_TYPES)))
        for rule in (one for one in rules if one.kind is kind):
            matches = meets(
                spans,
                kind,
                rule.column_globs,
                min_duration_s=rule.min_duration_s,
                min_wait_s=rule.min_wait_s,
            )
            matches = pc.fill_null(matches, False)  # noqa: FBT003  # Arrow's way
            yield rule, spans.filter(matches)
            spans = spans.filter(pc.invert(matches))


def _of_kind(table: pa.Table, kind: SpanKind) -> pa.Table:
    return table.filter(pc.equal(table["name"].cast(pa.string()), str(kind)))


def _roots(table: pa.Table, matched: pa.Table, rule: Rule) -> dict[str, dict[str, Any]]:
    """Return by trace id the root spans of jobs, if the rule's templates need them."""
    if all(rule.kind in one.kinds for one in _fields(rule)):
        return {}
    ids = pc.unique(matched["trace_id"].cast(pa.string()))
    roots = _of_kind(table, SpanKind.BUILD)
    roots = roots.filter(pc.is_in(roots["trace_id"].cast(pa.string()), value_set=ids))
    names = ["trace_id", *dict.fromkeys(one.name for one in _fields(rule))]
    return {row["trace_id"]: row for row in roots.select(names).to_pylist()}


def _fields(rule: Rule) -> list[Any]:
    names = [name for one in rule.templates.values() for name in one.names]
    return [field for name in names if (field := field_named(name)) is not None]


def _rows(spans: pa.Table) -> Iterator[dict[str, Any]]:
    for name in ("start", "end"):
        at = spans.schema.get_field_index(name)
        spans = spans.set_column(at, name, spans[name].cast(pa.int64()))
    for row in spans.to_pylist():
        yield row | {name: row[column] for name, column in COLUMNS.items()}


def _described(row: dict[str, Any], root: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
    """Add the rule, the values of its templates, and the outcome to a row."""
    attributes: dict[str, Any] = {}
    for one in _fields(rule):
        value = (row if rule.kind in one.kinds else root)[one.name]
        if value is not None:
            add_attributes(one, value, into=attributes)
    texts = {name: text.message(attributes) for name, text in rule.templates.items()}
    if texts["service"] == MISSING:
        texts["service"] = row["pipeline"] or MISSING
    if rule.kind is SpanKind.BUILD:
        state = None if row["blocked"] else row["build_state"]
    elif row["passed"]:
        state = "passed"
    else:
        # A job that an agent never took deployed nothing.
        state = row["job_state"] if row[STARTED] else None
        state = "failed" if state == "finished" else state
    return {**row, **texts, "rule": rule, "outcome": OUTCOMES.get(state or "")}


def _deployment(day: str, rows: Sequence[dict[str, Any]]) -> Deployment | None:
    """Return the deployment of the jobs (or the build) that deploy together, if it has an outcome."""
    outcomes = {row["outcome"] for row in rows}
    if FAILED not in outcomes and None in outcomes:
        return None  # part of it was canceled
    rows = sorted(rows, key=lambda row: (row["start"], row["span_id"]))
    first, rule = rows[0], rows[0]["rule"]
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    return Deployment(
        day=day,
        environment=first["environment"],
        service=first["service"],
        rule=rule.id,
        kind=ROLLBACK if rule.rollback else DEPLOYMENT,
        outcome=FAILED if FAILED in outcomes else SUCCEEDED,
        pipeline=first["pipeline"],
        build_number=first["number"],
        build_id=first["build_id"],
        url=first["build_url"] if rule.kind is SpanKind.BUILD else first["job_url"],
        branch=first["branch"],
        repository=None,
        commit=None if first["commit"] in UNKNOWN_COMMITS else first["commit"],
        started_at=from_ns(first["start"]),
        finished_at=from_ns(max(row["end"] for row in rows)),
        cost=sum(costs) if costs else None,
        currency=first["currency"] if costs else None,
        organization=first["organization"],
        trace_id=first["trace_id"],
        span_ids=[row["span_id"] for row in rows],
        committed_at=parsed_time(first.get("committed_at")),
    )


def parsed_time(text: str | None) -> datetime | None:
    """Return a time in ISO 8601 or Unix seconds; None if it is neither."""
    try:
        if text and text.isdecimal():
            return datetime.fromtimestamp(int(text), UTC)
        found = datetime.fromisoformat(text or "")
    except (ValueError, OverflowError, OSError):
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def with_history(
    deployments: Iterable[Deployment], origins: Mapping[str, Mapping[str, Any]]
) -> list[Deployment]:
    """Return the deployments in the order of their ends, with what earlier ones say about them.

    Args:
        deployments: Those of the period and of the days before it.
        origins: The rows of `deployment_origins.sql`, by build id.
    """
    ordered = sorted(deployments, key=lambda one: (one.finished_at, one.started_at, one.url or ""))
    histories: dict[tuple[str, str], _History] = {}
    for one in ordered:
        origin = origins.get(one.build_id or "", {})
        one.repository = origin.get("repository")
        one.commit = origin.get("commit") or one.commit
        histories.setdefault(one.target, _History()).add(one, origin)
    return ordered


class _History:
    """What happened so far to a service in an environment."""

    def __init__(self) -> None:
        self._previous: Deployment | None = None
        self._failing_since: datetime | None = None
        self._failed: list[str] = []
        self._deployed: set[tuple[str | None, str]] = set()

    def add(self, one: Deployment, origin: Mapping[str, Any]) -> None:
        """Set what the earlier deployments say about the next one."""
        previous, self._previous = self._previous, one
        one.change_failed = one.kind == DEPLOYMENT and one.outcome == FAILED
        if one.kind == ROLLBACK and previous and previous.is_successful_deployment:
            one.change_failed = True
            one.rolled_back = previous.spans
            self._failing_since, self._failed = previous.finished_at, previous.spans
        if one.outcome == FAILED:
            self._failing_since = self._failing_since or one.finished_at
            self._failed = [*self._failed, *one.spans]
            return
        if self._failing_since is not None:
            one.restore_s = (one.finished_at - self._failing_since).total_seconds()
            one.restored = self._failed
            self._failing_since, self._failed = None, []
        if one.kind == DEPLOYMENT and self._is_new(one):
            begin, one.lead_time_from = _change_began(one, origin)
            one.lead_time_s = max((one.finished_at - begin).total_seconds(), 0.0)

    def _is_new(self, one: Deployment) -> bool:
        """Return whether the change was not deployed here before; an unknown one counts as new."""
        if one.commit is None:
            return True
        change = (one.repository, one.commit)
        is_new = change not in self._deployed
        self._deployed.add(change)
        return is_new


def _change_began(one: Deployment, origin: Mapping[str, Any]) -> tuple[datetime, str]:
    """Return the earliest known time of the change, and what that is the time of."""
    if one.committed_at is not None and one.committed_at <= one.finished_at:
        return one.committed_at, COMMIT
    chain_at = origin.get("chain_at") or one.started_at
    first_at = origin.get("first_at") or chain_at
    if first_at < chain_at:
        return first_at, FIRST_BUILD
    return chain_at, TRIGGER if origin.get("hops") else BUILD


def table_of_deployments(deployments: Iterable[Deployment]) -> pa.Table:
    """Return the rows of the table `DEPLOYMENTS`."""
    return pa.Table.from_pylist([asdict(one) for one in deployments], schema=DEPLOYMENTS.schema)


def four_keys(
    deployments: Iterable[Deployment], days: tuple[date, date], *, by: str | None, zone: ZoneInfo
) -> list[dict[str, Any]]:
    """Return DORA's four keys for each service and environment, the one deployed most first.

    Args:
        deployments: Those of the period, with their history.
        days: The first and the last day that is covered.
        by: `day`, `week` or `month` for a row for each of these; None for one.
        zone: The time zone of the days.
    """
    groups: dict[tuple[str, str], dict[date, list[Deployment]]] = {}
    for one in sorted(deployments, key=lambda one: one.finished_at):
        begin = _period(one.finished_at.astimezone(zone).date(), by, days[0])
        groups.setdefault(one.target, {}).setdefault(begin, []).append(one)
    sizes = {target: sum(map(len, periods.values())) for target, periods in groups.items()}
    return [
        {"service": target[0], "environment": target[1], "period": begin}
        | _keys(groups[target][begin], _length(begin, by, days))
        for target in sorted(groups, key=lambda target: (-sizes[target], target))
        for begin in sorted(groups[target])
    ]


def _period(day: date, by: str | None, first: date) -> date:
    match by:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case _:
            return first


def _length(begin: date, by: str | None, days: tuple[date, date]) -> int:
    """Return how many days of the period that starts at `begin` are covered, at least 1."""
    first, last = days
    match by:
        case "day":
            end = begin
        case "week":
            end = begin + timedelta(days=6)
        case "month":
            end = (begin + timedelta(days=31)).replace(day=1) - timedelta(days=1)
        case _:
            end = last
    return max((min(end, last) - max(begin, first)).days + 1, 1)


def totals(deployments: Sequence[Deployment]) -> dict[str, Any]:
    """Return the numbers of all deployments together; null if unknown."""
    if not deployments:
        return {"deployments": 0}
    keys = _keys(sorted(deployments, key=lambda one: one.finished_at), 1)
    return {name: value for name, value in keys.items() if name in TOTALS}


def _keys(rows: Sequence[Deployment], days: int) -> dict[str, Any]:
    deployed = [one for one in rows if one.kind == DEPLOYMENT]
    succeeded = sum(one.outcome == SUCCEEDED for one in deployed)
    failures = sum(one.change_failed for one in rows)
    leads = [one.lead_time_s for one in rows if one.lead_time_s is not None]
    restores = [one.restore_s for one in rows if one.restore_s is not None]
    sources = Counter(one.lead_time_from for one in rows if one.lead_time_from)
    costs = [one for one in rows if one.cost is not None]
    currencies = {one.currency for one in costs}
    return {
        "days": days,
        "deployments": len(deployed),
        "succeeded": succeeded,
        "rollbacks": len(rows) - len(deployed),
        "deployments_per_day": succeeded / days,
        "lead_time_p50_s": median(leads) if leads else None,
        "lead_time_from": ", ".join(f"{name} {count}" for name, count in sources.most_common()),
        "change_failures": failures,
        "change_failure_rate": failures / len(deployed) if deployed else None,
        "restores": len(restores),
        "restore_p50_s": median(restores) if restores else None,
        "last_outcome": rows[-1].outcome,
        "last_finished_at": rows[-1].finished_at,
        "cost": sum(one.cost or 0.0 for one in costs) if len(currencies) == 1 else None,
        "currency": currencies.pop() if len(currencies) == 1 else None,
    }
