"""The program: extract a day, transform it, deliver it, mark it. Plain functions over plain objects.

Dagster (`defs/`), the command line (`cli/`) and the tests are shells around these. Each
function can be run again at any time: it costs what has come since, and repeats nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline import __version__
from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.tally import Usage
from bk_pipeline.clock import Clock
from bk_pipeline.deliver.aged import aged_note, too_old_in
from bk_pipeline.deliver.delivery import Delivery, DeliveryPolicy
from bk_pipeline.deliver.destination import Destination
from bk_pipeline.deliver.loop import deliver
from bk_pipeline.errors import RecordError
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.markers.client import MarkerClient
from bk_pipeline.markers.matching import columns_for
from bk_pipeline.markers.placing import DayPlan, Listing, Placement, place, plan_day, prune
from bk_pipeline.markers.rules import Rules
from bk_pipeline.spans.batch import traces_of
from bk_pipeline.spans.fields import FIELDS
from bk_pipeline.spans.model import SpanKind, Trace
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.table import table_of
from bk_pipeline.stats.columns import TABLES
from bk_pipeline.store.compaction import compact
from bk_pipeline.store.raw import PartWriter, RawStore, Revision
from bk_pipeline.store.spans import PartSummary, SetAside, SpanPart, SpanStore
from bk_pipeline.store.stats import StatsStore
from bk_pipeline.window import Window

if TYPE_CHECKING:
    from bk_pipeline.stats.summary import DayStats

# How far behind the watermark a listing begins again: how late a build may show up in it.
OVERLAP = timedelta(minutes=10)

EVERYDAY = Privacy()
# If this one has been written, the others have.
LAST_TABLE = TABLES[-1].name

Progress = Callable[[str], None]


def _silent(_: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Day:
    """A partition: its key ("YYYY-MM-DD") and the UTC window in which its builds were created."""

    key: str
    window: Window


@dataclass(frozen=True, slots=True)
class Extraction:
    """What an extraction found, and what it cost.

    Attributes:
        listed: Builds that Buildkite told of.
        stored: Those that the store did not have already.
        parts: New files.
        full: The whole day was listed.
        watermark: What is known from now on; None for a day that lies ahead.
        usage: Requests made and seconds waited.
        clock_ahead: By how much our clock is ahead of Buildkite's, at most.
        set_aside: Why builds had to be left out.
    """

    listed: int = 0
    stored: int = 0
    parts: int = 0
    full: bool = True
    watermark: datetime | None = None
    usage: Usage = field(default_factory=Usage)
    clock_ahead: timedelta = timedelta()
    set_aside: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Transformation:
    """What a transformation made, in `parts` new span parts."""

    parts: int
    summary: PartSummary


def extract_day(
    day: Day,
    *,
    client: BuildkiteClient,
    raw: RawStore,
    clock: Clock,
    reread: bool = False,
    full_refresh: bool = False,
    progress: Progress = _silent,
) -> Extraction:
    """Store the day's builds that are not stored yet.

    The first time the whole day is listed, later only what has finished since the day's
    watermark (less an overlap). Pages are stored as they come: what a killed run had stored
    is not fetched in vain. A day that lies ahead is empty.

    Args:
        reread: List the whole day again, and store what is missing: it mends whatever was
            missed or lost.
        full_refresh: List the whole day again, and store all of it once more.

    Raises:
        PipelineError: From the client or the store; the watermark is where it was.
    """
    asked_at = clock.now()
    if day.window.start >= asked_at:
        return Extraction()
    watermark = None if reread or full_refresh else raw.watermark(day.key)
    since = watermark - OVERLAP if watermark else None
    # Before anything is added: what earlier runs added has been transformed and delivered.
    compact(raw, day.key, now=asked_at)
    known = set() if full_refresh else raw.revisions(day.key, finished_from=since)
    before = client.usage
    writer = PartWriter(raw, day.key, fetched_at=asked_at)
    listed = 0
    set_aside: list[str] = []
    for page in client.iter_builds(day.window, finished_from=since):
        listed += len(page.builds)
        set_aside += page.set_aside
        writer.add(
            [
                one
                for one in page.builds
                if Revision(one.id, one.finished_ns, one.state) not in known
            ]
        )
        progress(f"{day.key}: {listed:,} builds listed, {writer.builds:,} of them new")
    writer.flush()
    # In Buildkite's time, which its filters compare with. Were our clock slow, ours is earlier.
    watermark = asked_at - client.ahead
    raw.set_watermark(day.key, watermark)
    return Extraction(
        listed=listed,
        stored=writer.builds,
        parts=len(writer.parts),
        full=since is None,
        watermark=watermark,
        usage=client.usage - before,
        clock_ahead=client.ahead,
        set_aside=set_aside,
    )


def recipe(privacy: Privacy) -> str:
    """8 hex digits that say which code, columns and settings make a span part of a raw one."""
    columns = (f"{one.name} {one.type} {one.source} {sorted(one.kinds)}" for one in FIELDS)
    return sha256("\0".join([__version__, repr(privacy), *columns]).encode()).hexdigest()[:8]


def transform_day(
    day: str,
    *,
    raw: RawStore,
    spans: SpanStore,
    privacy: Privacy = EVERYDAY,
    full_refresh: bool = False,
    progress: Progress = _silent,
) -> Transformation:
    """Make a span part of each raw part of `day` that has none by the present recipe.

    Builds that cannot be made into spans are set aside with their reason; the rest goes on.

    Args:
        privacy: What must not leave.
        full_refresh: Make all of them anew.

    Raises:
        StorageError: The store cannot be read or written.
    """
    present = spans.parts(day)
    ours = recipe(privacy)
    done = {part.raw_part for part in present if part.recipe == ours and not full_refresh}
    total = PartSummary()
    made = 0
    for raw_part in raw.parts(day):
        if raw_part in done:
            continue
        summary = PartSummary()
        part = SpanPart(raw_part, ours)
        tables = _span_tables(raw.payloads(day, raw_part), summary)
        merged_of = raw.replaced(day, raw_part)
        spans.write(day, part, map(privacy.apply, tables), summary, replaces=merged_of)
        if done.issuperset(merged_of) and merged_of:
            continue  # nothing of it is new
        _add(total, summary)
        made += 1
        progress(f"{day}: {total.spans:,} spans of {total.builds:,} builds")
    _tidy(day, ours, raw=raw, spans=spans)
    return Transformation(made, total)


def _tidy(day: str, ours: str, *, raw: RawStore, spans: SpanStore) -> None:
    """Delete the spans of other recipes, and replaced ones whose raw part has gone."""
    visible, raw_present = set(spans.parts(day)), raw.present(day)
    for part in spans.present(day):
        if part.recipe != ours or (part not in visible and part.raw_part not in raw_present):
            spans.delete(day, part)


def set_aside_builds(day: str, *, spans: SpanStore) -> list[SetAside]:
    """The builds of `day` that could not be made into spans, each once, with the reason."""
    return what_is_stored(day, spans=spans).set_aside


def what_is_stored(day: str, *, spans: SpanStore) -> PartSummary:
    """What all span parts of `day` hold; builds that went on stand in several.

    Each build that was set aside is named once.
    """
    total = PartSummary()
    for part in spans.parts(day):
        _add(total, spans.summary(day, part))
    total.set_aside = list(dict.fromkeys(total.set_aside))
    return total


def _span_tables(payloads: Iterator[list[bytes]], summary: PartSummary) -> Iterator[pa.Table]:
    for group in payloads:
        traces = []
        for trace in traces_of(group):
            if isinstance(trace, RecordError):
                summary.set_aside.append(SetAside(trace.record_id, trace.reason))
                continue
            summary.builds += 1
            if trace is None:
                summary.unfinished += 1
            else:
                traces.append(trace)
        table = _table_of_good(traces, summary)
        _count(summary, table)
        yield table


def _table_of_good(traces: list[Trace], summary: PartSummary) -> pa.Table:
    """The table of `traces`; a trace that no column takes is set aside instead of raised."""
    try:
        return table_of(traces)
    except (pa.ArrowException, ValueError, OverflowError) as exc:
        if len(traces) == 1:
            summary.set_aside.append(SetAside(traces[0].build.id, str(exc)))
            return table_of([])
        middle = len(traces) // 2
        halves = traces[:middle], traces[middle:]
        return pa.concat_tables([_table_of_good(half, summary) for half in halves])


def _count(summary: PartSummary, table: pa.Table) -> None:
    if not table.num_rows:
        return
    summary.spans += table.num_rows
    names = table["name"].value_counts().to_pylist()
    summary.jobs += sum(one["counts"] for one in names if one["values"] == SpanKind.JOB)
    adjusted = table["bk_pipeline.time_adjusted"]
    summary.time_adjusted += len(adjusted) - adjusted.null_count
    first = pc.min(table["start"].cast(pa.int64())).as_py()
    summary.first_ns = first if summary.first_ns is None else min(first, summary.first_ns)


def _add(total: PartSummary, one: PartSummary) -> None:
    for name in ("builds", "unfinished", "spans", "jobs", "time_adjusted", "set_aside"):
        setattr(total, name, getattr(total, name) + getattr(one, name))


def deliver_day(
    day: str,
    *,
    spans: SpanStore,
    destination: Destination,
    ledger: Ledger,
    clock: Clock,
    policy: DeliveryPolicy | None = None,
    progress: Progress = _silent,
) -> Delivery:
    """Send what the destination has not settled yet of the day's spans.

    Two runs that deliver the same day to the same destination take turns.

    Raises:
        PipelineError: From the destination or the ledger. What was accepted until then is
            in the ledger and will not be sent again.
    """
    total = Delivery()

    def tell(so_far: Delivery) -> None:
        accepted = total.accepted + so_far.accepted
        progress(f"{day}: {accepted:,} events accepted by {destination.name}")

    with ledger.exclusive(destination.name, day, on_wait=progress):
        settled = ledger.delivered_parts(destination.name, day)
        waiting = [part for part in spans.parts(day) if part.name not in settled]
        for part in waiting[:]:
            merged_of = {SpanPart(old, part.recipe).name for old in spans.replaced(day, part)}
            if merged_of and merged_of <= settled:
                ledger.note_part(destination.name, day, part.name)
                waiting.remove(part)
                continue
            too_old = too_old_in(settled, part.name, destination.max_age)
            if too_old is not None:
                total.too_old += too_old
                waiting.remove(part)
        for part in sorted(waiting, key=lambda part: spans.summary(day, part).first_ns or 0):
            delivery = deliver(
                spans.tables(day, part, columns=destination.columns),
                day=day,
                destination=destination,
                ledger=ledger,
                clock=clock,
                policy=policy,
                on_progress=tell,
            )
            total += delivery
            note = part.name
            if delivery.too_old and destination.max_age is not None:
                note = aged_note(part.name, delivery.too_old, destination.max_age)
            ledger.note_part(destination.name, day, note)
    return total


def summarize_day(day: str, *, spans: SpanStore, stats: StatsStore) -> DayStats:
    """The day's statistics, which are also stored, in place of those of an earlier run.

    Raises:
        StorageError: The store cannot be read or written.
    """
    # Here, because pandas takes half a second to load and nothing else needs it.
    from bk_pipeline.stats.frames import COLUMNS  # noqa: PLC0415
    from bk_pipeline.stats.summary import summarize  # noqa: PLC0415

    made_of = _parts_of(day, spans)
    found = summarize(day, spans.newest(day, columns=COLUMNS))
    for table, rows in found.tables().items():
        stats.write(table.name, day, rows, made_of=made_of)
    return found


def stats_are_stale(day: str, *, spans: SpanStore, stats: StatsStore) -> bool:
    """Whether the day has spans that its statistics were not made of. Reads no span."""
    present = _parts_of(day, spans)
    return bool(present) and stats.made_of(LAST_TABLE, day) != present


def _parts_of(day: str, spans: SpanStore) -> str:
    """16 hex digits that say which parts a day has; nothing if it has none."""
    names = [part.name for part in spans.parts(day)]
    return sha256("\0".join(names).encode()).hexdigest()[:16] if names else ""


@dataclass(frozen=True, slots=True)
class Marking:
    """What placing markers takes, whichever the day.

    `oldest`: what began before is not marked, since Honeycomb would not show what it is about.
    """

    spans: SpanStore
    rules: Rules
    client: MarkerClient
    ledger: Ledger
    oldest: datetime | None = None

    def plan(
        self, day: str, parts: list[SpanPart], *, listed: Listing | None, restore: bool
    ) -> DayPlan:
        """What is to be done about the day's markers, as far as these parts tell."""
        columns = columns_for(self.rules.rules)
        return plan_day(
            day,
            (table for part in parts for table in self.spans.tables(day, part, columns=columns)),
            self.rules,
            client=self.client,
            memory=self.ledger.markers,
            oldest=int(self.oldest.timestamp()) if self.oldest else 0,
            listed=listed,
            restore=restore,
        )


def plan_markers(
    day: str, marking: Marking, *, listed: Listing | None = None, restore: bool = False
) -> DayPlan:
    """What is to be done about the markers of `day`, all its spans considered. Changes nothing.

    Args:
        listed: Asked for a dataset's markers, instead of Honeycomb: for many days once.
        restore: Also place again what somebody deleted in Honeycomb.
    """
    parts = marking.spans.parts(day)
    return marking.plan(day, parts, listed=listed or marking.client.listed, restore=restore)


def place_markers(
    day: str,
    marking: Marking,
    *,
    whole: bool = False,
    restore: bool = False,
    progress: Progress = _silent,
) -> Placement:
    """Place the markers that the rules ask for of `day` and that are not there; mend the others.

    Only spans that came since the last time with these rules are looked at, unless `whole`.
    Deletes nothing. Two runs for the same day take turns.

    Raises:
        PipelineError: From Honeycomb or the ledger. What was placed until then is known.
    """
    rules, client, book = marking.rules, marking.client, marking.ledger.markers
    with marking.ledger.exclusive(client.name, day, on_wait=progress):
        noted = set() if whole else book.noted_parts(client.name, day, rules.digest)
        parts = [part for part in marking.spans.parts(day) if part.name not in noted]
        listed = client.listed if restore else None
        planned = marking.plan(day, parts, listed=listed, restore=restore)
        placed = place(planned, rules, client=client, memory=book, progress=progress)
        book.note_parts(client.name, day, [part.name for part in parts], rules.digest)
    return placed


def prune_markers(day: str, marking: Marking, *, progress: Progress = _silent) -> Placement:
    """Delete those markers of `day` that we made and no rule asks for any more."""
    with marking.ledger.exclusive(marking.client.name, day, on_wait=progress):
        planned = plan_markers(day, marking)
        return prune(planned, client=marking.client, memory=marking.ledger.markers)
