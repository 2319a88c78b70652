"""Transform: the raw builds of a day into its span table."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from hashlib import sha256
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline import spans as spans_package
from bk_pipeline import text, units
from bk_pipeline.clock import Clock, SystemClock
from bk_pipeline.errors import DamagedFile, RecordError
from bk_pipeline.pipeline.days import Progress, retry_past_damage, silent
from bk_pipeline.spans.fields import CONVENTIONS
from bk_pipeline.spans.model import SpanKind, SpanOptions, Trace
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.records import Build, never_runs
from bk_pipeline.spans.table import decode_or_error, table_of, traces_of
from bk_pipeline.spans.timing import parse_ns, to_ns
from bk_pipeline.spans.tree import DEFAULTS
from bk_pipeline.store.raw import RawStore, Revision
from bk_pipeline.store.spans import PartSummary, QuarantinedBuild, SpanPart, SpanStore
from bk_pipeline.text import counted
from bk_pipeline.units import NS_PER_S

EVERYDAY = Privacy()
SYSTEM_CLOCK = SystemClock()
NO_COLUMN = "a value does not fit its column"


@dataclass(slots=True)
class Transformation:
    """What a transformation made, in `parts` new span parts.

    `damaged` is what is to be said of stored files that were damaged. If raw builds were in
    them, the day is to be extracted again.
    """

    parts: int = 0
    summary: PartSummary = field(default_factory=PartSummary)
    damaged: list[str] = field(default_factory=list)


def transform_fingerprint(privacy: Privacy, options: SpanOptions = DEFAULTS) -> str:
    """8 hex digits that identify the code and the settings that make a span part of a raw one.

    They are part of a span part's name: with other code or settings it is made again.
    """
    return _short_hash(source_digest(), repr(privacy), repr(options))


def holds_back_builds(
    day: str, *, spans: SpanStore, privacy: Privacy, options: SpanOptions
) -> bool:
    """Whether the day has finished builds that were not settled when its spans were made."""
    if options.settled_after_s is None:
        return False
    ours = transform_fingerprint(privacy, options)
    return any(part.fingerprint != ours for part in spans.parts(day))


@cache
def source_digest() -> str:
    """SHA-256 over the source files that decide what spans are made.

    Those of `spans/`, the modules of ours that it imports, and this one.
    """
    digest = sha256()
    files = [Path(one.__file__ or "") for one in (text, units)]
    files += Path(spans_package.__file__ or "").parent.rglob("*.py")
    for file in sorted([*files, Path(__file__)]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _short_hash(*texts: str) -> str:
    return sha256("\0".join(texts).encode()).hexdigest()[:8]


def transform_day(
    day: str,
    *,
    raw: RawStore,
    spans: SpanStore,
    privacy: Privacy = EVERYDAY,
    options: SpanOptions = DEFAULTS,
    clock: Clock = SYSTEM_CLOCK,
    full_refresh: bool = False,
    progress: Progress = silent,
    result: Transformation | None = None,
) -> Transformation:
    """Make a span part of each raw part of `day` that has none with the present fingerprint.

    Builds that cannot be made into spans are set aside with their reason; the rest goes on.

    Args:
        privacy: What must not leave.
        options: Which spans are made, and when.
        clock: Tells which builds have settled.
        full_refresh: Make all of them anew.
        result: Updated after each part, so that it is right even if this raises. Returned at
            the end.

    Raises:
        StorageError: The store cannot be read or written.
    """
    result = Transformation() if result is None else result
    damaged = result.damaged
    # Hidden ones too: they count again if the one that they are merged in is damaged.
    present = retry_past_damage(lambda: (spans.parts(day), spans.all_parts(day))[1], damaged)
    ours = transform_fingerprint(privacy, options)
    done = {part.raw_part for part in present if part.fingerprint == ours and not full_refresh}
    settled = _SettledFilter(options, now=clock.now())
    if settled.active:
        settled.learn(retry_past_damage(lambda: raw.revisions(day), damaged))
    current = dict.fromkeys(raw.all_parts(day), ours)
    for raw_part in retry_past_damage(lambda: raw.parts(day), damaged):
        if raw_part in done:
            continue
        summary = PartSummary()
        merged_of = raw.merged_from(day, raw_part)
        try:
            held = settled.held_back(raw.payloads(day, raw_part)) if settled.active else set()
            part = SpanPart(raw_part, _short_hash(ours, *sorted(held)) if held else ours)
            current[raw_part] = part.fingerprint
            if part in present and not full_refresh:
                continue  # nothing has settled since
            payloads = settled.exported(raw.payloads(day, raw_part), held, summary)
            tables = _span_tables(payloads, options, summary, privacy)
            spans.write(day, part, tables, summary, replaces=merged_of)
        except DamagedFile as exc:
            damaged.append(str(exc))
            continue
        if done.issuperset(merged_of) and merged_of:
            continue  # nothing of it is new
        _add(result.summary, summary)
        result.parts += 1
        spans_made, builds = result.summary.spans, result.summary.builds
        progress(f"{day}: {counted(spans_made, 'span')} of {counted(builds, 'build')}")
    retry_past_damage(lambda: _tidy(day, ours, current, raw=raw, spans=spans), damaged)
    return result


def _tidy(
    day: str, ours: str, current: Mapping[str, str], *, raw: RawStore, spans: SpanStore
) -> None:
    """Delete the spans of other fingerprints, and replaced ones whose raw part has gone.

    Args:
        day: The partition.
        ours: The present fingerprint.
        current: The one of each raw part, which differs where builds are held back.
        raw: Where the raw parts are.
        spans: Where the spans are.
    """
    visible, raw_present = set(spans.parts(day)), raw.all_parts(day)
    for part in spans.all_parts(day):
        other = part.fingerprint != current.get(part.raw_part, ours)
        if other or (part not in visible and part.raw_part not in raw_present):
            spans.delete(day, part)


class _Outcome(msgspec.Struct):
    id: str
    finished_at: str | None = None
    blocked: bool | None = None


class _SettledFilter:
    """Holds builds back that may go on. Lets all through unless `options` ask for settled ones.

    Of several records of a build only the newest is exported: the others are not settled.
    """

    def __init__(self, options: SpanOptions, *, now: datetime) -> None:
        self.active = options.settled_after_s is not None
        self._finished_before_ns = to_ns(now) - (options.settled_after_s or 0) * NS_PER_S
        self._newest_ns: dict[str, int] = {}

    def learn(self, revisions: Iterable[Revision]) -> None:
        """Take in which records the day has."""
        for one in revisions:
            known = self._newest_ns.get(one.build_id, 0)
            self._newest_ns[one.build_id] = max(one.finished_ns or 0, known)

    def held_back(self, payloads: Iterable[list[bytes]]) -> set[str]:
        """The ids of the builds that have finished and not settled yet."""
        return {
            one.id
            for group in payloads
            for one in map(_outcome, group)
            if one and one.finished_at and self._is_newest(one) and not self._is_settled(one)
        }

    def exported(
        self, payloads: Iterable[list[bytes]], held: Container[str], summary: PartSummary
    ) -> Iterator[list[bytes]]:
        """The payloads to make spans of; counts the others in `summary`."""
        for group in payloads:
            if not self.active:
                yield group
                continue
            kept = []
            for payload in group:
                one = _outcome(payload)
                if one and one.id in held:
                    summary.builds += 1
                    summary.held_back += 1
                elif one is None or not one.finished_at or self._is_newest(one):
                    kept.append(payload)
            yield kept

    def _is_newest(self, one: _Outcome | Build) -> bool:
        assert one.finished_at is not None
        return parse_ns(one.finished_at) >= self._newest_ns.get(one.id, 0)

    def _is_settled(self, one: _Outcome | Build) -> bool:
        assert one.finished_at is not None
        return not one.blocked and parse_ns(one.finished_at) <= self._finished_before_ns


def _outcome(payload: bytes) -> _Outcome | Build | None:
    """When the build finished; None if it cannot be read, and so will be quarantined."""
    try:
        return msgspec.json.decode(payload, type=_Outcome)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = decode_or_error(payload)
        return None if isinstance(found, RecordError) else found


def quarantined_builds(day: str, *, spans: SpanStore) -> list[QuarantinedBuild]:
    """The builds of `day` that could not be made into spans, each once, with the reason."""
    return stored_summary(day, spans=spans).quarantined


def stored_summary(day: str, *, spans: SpanStore) -> PartSummary:
    """What all span parts of `day` hold; builds that went on stand in several.

    Each build that was set aside is named once.
    """
    total = PartSummary()
    for part in spans.parts(day):
        _add(total, spans.summary(day, part))
    total.quarantined = list(dict.fromkeys(total.quarantined))
    return total


def _span_tables(
    payloads: Iterable[list[bytes]],
    options: SpanOptions,
    summary: PartSummary,
    privacy: Privacy,
) -> Iterator[pa.Table]:
    for group in payloads:
        traces = []
        for payload, trace in zip(group, traces_of(group, options=options), strict=True):
            if isinstance(trace, RecordError):
                summary.quarantined.append(_quarantined(trace.record_id, trace.reason, privacy))
                continue
            summary.builds += 1
            if trace is None and never_runs(payload):
                summary.skipped += 1
            elif trace is None:
                summary.unfinished += 1
            else:
                traces.append(trace)
        table = _table_of_good(traces, options, summary, privacy)
        _count(summary, table)
        yield privacy.apply(table)


def _quarantined(build_id: str | None, reason: str, privacy: Privacy) -> QuarantinedBuild:
    return QuarantinedBuild(privacy.shown("buildkite.build.id", build_id), reason)


def _table_of_good(
    traces: list[Trace], options: SpanOptions, summary: PartSummary, privacy: Privacy
) -> pa.Table:
    """The table of `traces`; a trace that no column takes is set aside instead of raised."""
    try:
        return table_of(traces, without=() if options.conventions else CONVENTIONS)
    except (pa.ArrowException, ValueError, OverflowError) as exc:
        if len(traces) == 1:
            # Arrow's own words quote the value.
            reason = f"{NO_COLUMN} ({type(exc).__name__})"
            summary.quarantined.append(_quarantined(traces[0].build.id, reason, privacy))
            return table_of([])
        middle = len(traces) // 2
        halves = traces[:middle], traces[middle:]
        return pa.concat_tables(
            [_table_of_good(half, options, summary, privacy) for half in halves]
        )


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
    counts = ("builds", "unfinished", "skipped", "held_back", "spans", "jobs", "time_adjusted")
    for name in (*counts, "quarantined"):
        setattr(total, name, getattr(total, name) + getattr(one, name))
