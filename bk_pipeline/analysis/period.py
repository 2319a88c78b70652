"""What the builds of a day, a week or a month come to, by queries over the span table.

The definitions are those of `summary.py`, whose tables have the numbers of each single day. Memory
is DuckDB's, which is limited: only results come here, a few rows per pipeline, step and slot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from bk_pipeline.analysis.queries import query_text
from bk_pipeline.units import NS_PER_S
from bk_pipeline.window import day_window

if TYPE_CHECKING:
    from bk_pipeline.analysis.change import Change
    from bk_pipeline.analysis.sql import Database

Row = Mapping[str, Any]

NAMES = {"day": 1, "week": 7, "month": 30}
HOURS_SHOWN_DAYS = 1
# A failure is new if it was not in so many days before.
KNOWN_DAYS = 30
LISTED = 10
PARAMETER = re.compile(r"\$([a-z_]+)")
ORGANIZATIONS = (
    "SELECT count(DISTINCT organization) AS organizations FROM builds "
    "WHERE day BETWEEN $before_since::DATE AND $until::DATE"
)


@dataclass(frozen=True, slots=True)
class Period:
    """Some days in a row.

    Attributes:
        first: The first day.
        last: The last day, included.
        zone: The time zone of the days and of their hours.
    """

    first: date
    last: date
    zone: ZoneInfo

    @classmethod
    def ending(cls, name: str, last: date, zone: ZoneInfo) -> Period:
        """Return the day, the week (7 days) or the month (30 days) that ends with `last`."""
        return cls(last - timedelta(days=NAMES[name] - 1), last, zone)

    @property
    def days(self) -> int:
        """The number of days."""
        return (self.last - self.first).days + 1

    @property
    def before_first(self) -> date:
        """The first day of the period of the same length before it.

        A day is compared with none: the day before may be a Sunday.
        """
        return self.first - timedelta(days=self.days) if self.days > 1 else self.first

    @property
    def unit(self) -> str:
        """What a slot of time is: an hour if the period is a day, else a day."""
        return "hour" if self.days <= HOURS_SHOWN_DAYS else "day"

    @property
    def start(self) -> datetime:
        """When it begins, in UTC."""
        return day_window(self.first.isoformat(), self.zone).start

    @property
    def end(self) -> datetime:
        """When it ends, in UTC."""
        return day_window(self.last.isoformat(), self.zone).end

    @property
    def slots(self) -> list[datetime]:
        """When each slot begins. There are days of 23 and 25 hours."""
        if self.unit == "day":
            every = (self.first + timedelta(days=n) for n in range(self.days))
            return [day_window(one.isoformat(), self.zone).start for one in every]
        hours = int((self.end - self.start) / timedelta(hours=1))
        return [self.start + timedelta(hours=n) for n in range(hours)]

    def __str__(self) -> str:
        return f"{self.first}" if self.days == 1 else f"{self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class PeriodStats:
    """The numbers of a period. Rows have the columns of the queries that they come from.

    Attributes:
        period: The period.
        total: All builds: a row of `report_builds.sql`, with `jobs`, `retries` and `agent_minutes` of
            `report_steps.sql`, and `flaky_failures`. None if there are no builds.
        before: The builds of the period of the same length before it; None if there are none.
        pipelines: The same as `total` for each pipeline, by name. `before` is its earlier row.
        slots: The row of each slot of the period that has builds.
        pipeline_slots: The same for each pipeline.
        steps: The rows of `report_steps.sql` for steps, the most expensive first.
        flaky: The rows of `flaky.sql` that have flaky attempts.
        failures: The rows of `failures.sql`; none without job details, like `sections`.
        sections: The rows of `report_sections.sql`.
        queues: The rows of `report_queues.sql`.
        waits: The rows of `report_waits.sql`.
        slowest: The builds that took longest, as of `report_listed.sql`.
        failed: The builds that failed last.
        changes: Changes that were found in this period, those for the worse first.
        currency: The currency of the costs; None without prices.
    """

    period: Period
    total: Row | None
    before: Row | None
    pipelines: Sequence[Row]
    slots: Mapping[int, Row]
    pipeline_slots: Mapping[str, Mapping[int, Row]]
    steps: Sequence[Row]
    flaky: Sequence[Row]
    queues: Sequence[Row]
    waits: Sequence[Row]
    slowest: Sequence[Row]
    failed: Sequence[Row]
    failures: Sequence[Row] = ()
    sections: Sequence[Row] = ()
    changes: Sequence[Change] = ()
    currency: str | None = None


def period_stats(
    period: Period,
    database: Database,
    *,
    changes: Sequence[Change] = (),
    first_stored: date | None = None,
) -> PeriodStats:
    """Query the numbers of a period.

    Args:
        period: The period.
        database: The views over the span table.
        changes: Changes that were found; those that began in the period count.
        first_stored: The first stored day. Without it, or if it is later than that, there is no
            comparison with the period before.

    Raises:
        FatalError: It needs more memory than the database may use.
        UnreadableSpans: A file could not be read.
    """
    ask = _Questions(period, database)
    builds = ask.rows("report_builds")
    jobs = ask.rows("report_steps")
    flaky = [row for row in ask.rows("flaky") if row["flaky_attempts"]]
    comparable = first_stored is not None and first_stored <= period.before_first
    earlier = {row["pipeline"]: row for row in builds if row["earlier"] and comparable}
    now = [row for row in builds if not row["earlier"]]
    slots: dict[str | None, dict[int, Row]] = {}
    last_slot = len(period.slots) - 1
    for row in now:
        if row["slot"] is not None:
            at = min(max(row["slot"], 0), last_slot)  # a build may be a leap second off
            slots.setdefault(row["pipeline"], {}).setdefault(at, row)
    of_jobs = {row["pipeline"]: row for row in jobs if row["step"] is None}
    whole = [
        {
            **_job_counts(of_jobs.get(row["pipeline"], {})),
            **row,
            "flaky_failures": _flaky_failures(flaky, row["pipeline"]),
            "before": earlier.get(row["pipeline"]),
        }
        for row in now
        if row["slot"] is None
    ]
    total = next((row for row in whole if row["pipeline"] is None), None)
    return PeriodStats(
        period=period,
        total=total,
        before=earlier.get(None),
        pipelines=[row for row in whole if row["pipeline"] is not None],
        slots=slots.pop(None, {}),
        pipeline_slots={str(name): rows for name, rows in slots.items()},
        steps=[row for row in jobs if row["step"] is not None],
        flaky=flaky,
        queues=ask.rows("report_queues"),
        waits=ask.rows("report_waits"),
        slowest=ask.rows("report_listed", which="slowest"),
        failed=ask.rows("report_listed", which="failed"),
        failures=ask.rows("failures"),
        sections=ask.rows("report_sections"),
        changes=[one for one in changes if period.start <= one.began_at < period.end],
        currency=total["currency"] if total else None,
    )


class _Questions:
    """Asks the packaged queries about a period."""

    def __init__(self, period: Period, database: Database) -> None:
        self._database = database
        self._values: dict[str, Any] = {
            "since": period.first.isoformat(),
            "until": period.last.isoformat(),
            "before_since": period.before_first.isoformat(),
            "known_since": (period.first - timedelta(days=KNOWN_DAYS)).isoformat(),
            "kind": "*",
            "unit": period.unit,
            "origin_ns": int(period.start.timestamp()) * NS_PER_S,
            "zone": period.zone.key,
            "rows": LISTED,
            "pipeline": "*",
            "branch": "*",
            "by": "all",
        }
        [found] = self._ask(ORGANIZATIONS)
        self._values["qualified"] = found["organizations"] > 1

    def rows(self, query: str, **values: Any) -> list[Row]:
        return self._ask(query_text(query), **values)

    def _ask(self, text: str, **values: Any) -> list[Row]:
        known = {**self._values, **values}
        code = "\n".join(line.partition("--")[0] for line in text.splitlines())
        named = {name: known[name] for name in set(PARAMETER.findall(code))}
        rows: list[Row] = self._database.table(text, named).to_pylist()
        return rows


def _job_counts(row: Row) -> Row:
    """Return what the jobs of a pipeline add to its row; builds may have none."""
    return {name: row.get(name, 0) for name in ("jobs", "retries", "agent_minutes")}


def _flaky_failures(flaky: Sequence[Row], pipeline: str | None) -> int:
    # Of pipelines of several organizations, only those of the last part of the name are told apart.
    slug = None if pipeline is None else pipeline.rpartition("/")[2]
    found = (row["flaky_attempts"] for row in flaky if slug in {None, row["pipeline"]})
    return int(sum(found))
