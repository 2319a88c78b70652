"""Job details: read logs, test results and profiles of chosen jobs, and store spans of them.

What was read is stored together with the spans that it gave, so each source of a job is read once. A
run that is killed loses what it has not written yet, and reads that again. What a budget left out is
read by the next run of the day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.analysis.queries import query_text
from bk_pipeline.analysis.sql import Database
from bk_pipeline.buildkite.detail_records import JobRef
from bk_pipeline.clock import Clock
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.pipeline.days import Progress, no_progress, retry_past_damage
from bk_pipeline.pipeline.job_sources import Found, Job, JobDetails, SourceReader
from bk_pipeline.sources.model import JOB_COLUMNS, DetailSpan, JobTimes, detail_rows
from bk_pipeline.sources.policy import (
    COLUMNS,
    EXIT_STATUS,
    SIGNAL_REASON,
    STATE,
    Policy,
    Rule,
    Source,
    choose,
)
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.store.folder import DETAILS
from bk_pipeline.store.spans import PartSummary, ReadSource, SpanPart, SpanStore
from bk_pipeline.text import counted

if TYPE_CHECKING:
    from bk_pipeline.buildkite.details import DetailsClient

BUILD_ID = "buildkite.build.id"
JOB_ID, NUMBER, PIPELINE = "buildkite.job.id", "buildkite.build.number", "buildkite.pipeline.slug"
# The name under which the ledger's lock of a day is held.
LOCK = "job_details"
# How many days tell what is usual.
USUAL_DAYS = 14
# A part is written when it has this many spans, or is of this many sources.
PART_SPANS, PART_SOURCES = 20_000, 200
# Changes whenever what is read of the same source changes; no part is made again because of it.
VERSION = "00000001"


def read_job_details(
    day: str,
    *,
    spans: SpanStore,
    client: DetailsClient,
    policy: Policy,
    ledger: Ledger,
    clock: Clock,
    privacy: Privacy,
    progress: Progress = no_progress,
    on_wait: Progress = no_progress,
    result: JobDetails | None = None,
) -> JobDetails:
    """Read what the policy asks for and was not read yet, and store the spans that it gives.

    Args:
        day: The partition.
        spans: The span store.
        client: Reads logs and artifacts.
        policy: Which jobs, and what of them.
        ledger: Has the lock that keeps two runs from reading the same day.
        clock: Gives parts their names.
        privacy: Applied to what logs and artifacts say.
        progress: Called after each job.
        on_wait: Called with a sentence before waiting for another run.
        result: Updated as sources are read, so that it is right even if this raises. Returned at
            the end.

    Raises:
        PipelineError: From the client, the ledger or the store. What was read is stored.
    """
    result = JobDetails() if result is None else result
    with ledger.delivery_lock(LOCK, day, on_wait=on_wait):
        read = retry_past_damage(lambda: spans.read_sources(day), result.damaged)
        known = {(one.span_id, one.source) for one in read}
        jobs = _jobs(day, spans, policy, known, result)
        rows = partial(detail_rows, jobs.table, privacy=privacy)
        writer = _Writer(day, spans, clock, rows, result)
        log_writer = partial(spans.log_writer, day)
        reader = SourceReader(client, policy, clock, result, log_writer=log_writer)
        try:
            for done, job in enumerate(jobs.waiting, 1):
                for source in job.sources:
                    found = reader.read(job, source)
                    if found is not None:
                        writer.add(job.row, found)
                progress(f"{day}: {done} of {counted(len(jobs.waiting), 'job')} read")
        finally:
            writer.flush()
    return result


@dataclass(slots=True)
class Preview:
    """What a policy would read of stored days.

    Attributes:
        days: How many days.
        logs: Jobs whose logs would be read.
        listings: Jobs whose artifacts would be listed.
        engine: Jobs whose tests Test Engine would be asked for.
        events: Spans that these would give, by what each source gave until now; None if one of
            them was never read.
    """

    days: int
    logs: int = 0
    listings: int = 0
    engine: int = 0
    events: int | None = None

    def __str__(self) -> str:
        counts = (self.logs, self.listings, self.engine)
        logs, listings, engine = (-(-count // self.days) for count in counts)
        stored = counted(self.days, "stored day")
        parts = [counted(logs, "log")] if logs else []
        parts += [f"the artifacts of {counted(listings, 'job')}"] if listings else []
        parts += [f"Test Engine's tests of {counted(engine, 'job')}"] if engine else []
        if not parts:
            return f"they choose no job of the last {stored}."
        cost = f"{counted(logs + listings + engine, 'request')} a day"
        cost += ", and two for each artifact that is read" if listings else ""
        events = "Each section, test and event that becomes a span is an event for Honeycomb"
        if self.events is not None:
            events += f", about {-(-self.events // self.days):,} a day by what was read so far"
        return f"by the last {stored} they read {_listed(parts)}: {cost}. {events}."


def _listed(parts: list[str]) -> str:
    """Return `a, b and c`."""
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def preview(days: Sequence[str], *, spans: SpanStore, policy: Policy) -> Preview:
    """Return what the policy would read of `days`, whatever was read already."""
    found, wanted, read = Preview(len(days)), Counter[str](), list[ReadSource]()
    for day in days:
        read += spans.read_sources(day)
        for job in _jobs(day, spans, policy, set(), JobDetails()).waiting:
            wanted.update(job.sources)
            found.listings += not {"tests", "profiles"}.isdisjoint(job.sources)
    found.logs, found.engine = wanted["log"], wanted["test_engine"]
    times = Counter(one.source for one in read)
    if wanted.keys() <= times.keys():
        given = Counter[str]()
        for one in read:
            given[one.source] += one.spans
        found.events = sum(count * given[name] // times[name] for name, count in wanted.items())
    return found


class _Jobs(msgspec.Struct):
    table: pa.Table
    waiting: list[Job]


def _jobs(
    day: str, spans: SpanStore, policy: Policy, known: set[tuple[str, str]], result: JobDetails
) -> _Jobs:
    """Return the jobs that the policy chooses, those of its first rule first."""
    usual = usual_durations(day, spans) if policy.needs_usual else {}
    columns = list(dict.fromkeys((*COLUMNS, *JOB_COLUMNS)))
    tables, rules = [], []
    for table in spans.newest(day, columns=columns):
        chosen = choose(policy, table, usual)
        tables.append(table.take(pa.array([one.row for one in chosen], pa.int64())))
        rules += [one.rule for one in chosen]
    if not tables:
        return _Jobs(pa.table({}), [])
    everything = pa.concat_tables(tables).unify_dictionaries()
    result.chosen = len(everything)
    rows = everything.select(
        [
            "span_id",
            "start",
            "end",
            BUILD_ID,
            PIPELINE,
            NUMBER,
            JOB_ID,
            EXIT_STATUS,
            SIGNAL_REASON,
            STATE,
        ]
    )
    for name in ("start", "end"):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, rows[name].cast(pa.int64()))
    waiting = []
    for row, (job, index) in enumerate(zip(rows.to_pylist(), rules, strict=True)):
        rule = policy.rule[index]
        left = tuple(one for one in rule.sources if (job["span_id"], one) not in known)
        result.known += len(rule.sources) - len(left)
        if left:
            waiting.append((index, _job(row, job, rule, left)))
    waiting.sort(key=lambda one: one[0])
    return _Jobs(everything, [job for _, job in waiting])


def _job(row: int, job: Mapping[str, Any], rule: Rule, sources: tuple[Source, ...]) -> Job:
    return Job(
        row,
        job["span_id"],
        job[BUILD_ID],
        JobRef(job[PIPELINE], job[NUMBER], job[JOB_ID]),
        JobTimes(job[JOB_ID], job["start"], job["end"]),
        rule,
        sources,
        job[EXIT_STATUS],
        job[SIGNAL_REASON],
        job[STATE],
    )


def usual_durations(day: str, spans: SpanStore) -> dict[tuple[str, str], float]:
    """Return the length in seconds that 95 % of a step's jobs kept to in the 14 days before `day`.

    By pipeline and step; without those that had fewer than 20 jobs that passed.
    """
    last = date.fromisoformat(day) - timedelta(days=1)
    since = last - timedelta(days=USUAL_DAYS - 1)
    stored = spans.parts_by_day()
    days = [one for one in stored if since.isoformat() <= one <= last.isoformat()]
    if not days:
        return {}
    datasets = spans.datasets(days)
    parameters = {"since": since.isoformat(), "until": last.isoformat()}
    with Database(datasets.single, datasets.several, memory_mib=512) as database:
        rows = database.table(query_text("usual_durations"), parameters).to_pylist()
    return {(row["pipeline"], row["step"]): row["p95_s"] for row in rows}


class _Writer:
    """Collects what was found, and writes a part when there is enough of it."""

    def __init__(
        self,
        day: str,
        spans: SpanStore,
        clock: Clock,
        rows: Callable[[list[tuple[int, list[DetailSpan]]]], pa.Table],
        result: JobDetails,
    ) -> None:
        self._day, self._spans, self._clock, self._rows = day, spans, clock, rows
        self._result = result
        self._found: list[tuple[int, list[DetailSpan]]] = []
        self._read: list[ReadSource] = []

    def add(self, row: int, found: Found) -> None:
        """Add what was found in the job in this row."""
        self._found += [(row, spans) for spans in found.spans if spans]
        self._read.append(found.read)
        if (
            len(self._read) >= PART_SOURCES
            or sum(len(spans) for _, spans in self._found) >= PART_SPANS
        ):
            self.flush()

    def flush(self) -> None:
        """Write what was added since the last part."""
        if not self._read:
            return
        # The spans of a build must be adjacent; rows of the table are by build.
        self._found.sort(key=lambda one: one[0])
        table = self._rows(self._found)
        for kind in table["name"].value_counts().to_pylist():
            self._result.spans[kind["values"]] += kind["counts"]
        moment = self._clock.now().strftime("%Y%m%dT%H%M%S.%fZ")
        part = SpanPart(f"{DETAILS}-{moment}-{token_hex(4)}", VERSION)
        first = pc.min(table["start"].cast(pa.int64())).as_py() if len(table) else None
        summary = PartSummary(spans=len(table), first_ns=first)
        self._spans.write(self._day, part, [table], summary, read=self._read)
        self._found, self._read = [], []
