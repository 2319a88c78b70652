"""Transform: the raw builds of a day into its span table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline import __version__
from bk_pipeline.errors import DamagedFile, RecordError
from bk_pipeline.pipeline.days import Progress, despite_damage, silent
from bk_pipeline.spans.batch import traces_of
from bk_pipeline.spans.fields import FIELDS
from bk_pipeline.spans.model import SpanKind, Trace
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.records import never_runs
from bk_pipeline.spans.table import table_of
from bk_pipeline.spans.text import counted
from bk_pipeline.store.raw import RawStore
from bk_pipeline.store.spans import PartSummary, SetAside, SpanPart, SpanStore

EVERYDAY = Privacy()


@dataclass(slots=True)
class Transformation:
    """What a transformation made, in `parts` new span parts.

    `damaged` is what is to be said of stored files that were damaged. If raw builds were in
    them, the day is to be extracted again.
    """

    parts: int = 0
    summary: PartSummary = field(default_factory=PartSummary)
    damaged: list[str] = field(default_factory=list)


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
    progress: Progress = silent,
    result: Transformation | None = None,
) -> Transformation:
    """Make a span part of each raw part of `day` that has none by the present recipe.

    Builds that cannot be made into spans are set aside with their reason; the rest goes on.

    Args:
        privacy: What must not leave.
        full_refresh: Make all of them anew.
        result: Updated after each part, so that it is right even if this raises. Returned at
            the end.

    Raises:
        StorageError: The store cannot be read or written.
    """
    result = Transformation() if result is None else result
    damaged = result.damaged
    # Hidden ones too: they count again if the one that they are merged in is damaged.
    present = despite_damage(lambda: (spans.parts(day), spans.present(day))[1], damaged)
    ours = recipe(privacy)
    done = {part.raw_part for part in present if part.recipe == ours and not full_refresh}
    for raw_part in despite_damage(lambda: raw.parts(day), damaged):
        if raw_part in done:
            continue
        summary = PartSummary()
        part = SpanPart(raw_part, ours)
        tables = _span_tables(raw.payloads(day, raw_part), summary)
        merged_of = raw.replaced(day, raw_part)
        try:
            spans.write(day, part, map(privacy.apply, tables), summary, replaces=merged_of)
        except DamagedFile as exc:
            damaged.append(str(exc))
            continue
        if done.issuperset(merged_of) and merged_of:
            continue  # nothing of it is new
        _add(result.summary, summary)
        result.parts += 1
        spans_made, builds = result.summary.spans, result.summary.builds
        progress(f"{day}: {counted(spans_made, 'span')} of {counted(builds, 'build')}")
    despite_damage(lambda: _tidy(day, ours, raw=raw, spans=spans), damaged)
    return result


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
        for payload, trace in zip(group, traces_of(group), strict=True):
            if isinstance(trace, RecordError):
                summary.set_aside.append(SetAside(trace.record_id, trace.reason))
                continue
            summary.builds += 1
            if trace is None and never_runs(payload):
                summary.skipped += 1
            elif trace is None:
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
    for name in ("builds", "unfinished", "skipped", "spans", "jobs", "time_adjusted", "set_aside"):
        setattr(total, name, getattr(total, name) + getattr(one, name))
