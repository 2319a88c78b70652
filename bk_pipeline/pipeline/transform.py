"""Transform: turn the raw builds of a day into its span table."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping
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
from bk_pipeline.pipeline.days import Progress, no_progress, retry_past_damage
from bk_pipeline.spans.costs import with_costs
from bk_pipeline.spans.fields import fields_left_out
from bk_pipeline.spans.model import SpanKind, SpanOptions
from bk_pipeline.spans.organizations import Names
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.records import Build, never_runs
from bk_pipeline.spans.table import decode_or_error, table_and_errors, traces_of
from bk_pipeline.spans.timing import parse_ns, to_ns
from bk_pipeline.spans.tree import DEFAULTS
from bk_pipeline.store.raw import RawStore, Revision
from bk_pipeline.store.spans import PartSummary, QuarantinedBuild, SpanPart, SpanStore
from bk_pipeline.text import counted
from bk_pipeline.units import NS_PER_S

DEFAULT_PRIVACY = Privacy()
NO_NAMES = Names()
SYSTEM_CLOCK = SystemClock()


@dataclass(slots=True)
class Transformation:
    """The result of a transform.

    Attributes:
        parts: New span parts.
        summary: Counts of the builds and spans that are new in them.
        damaged: A message for each stored file that was damaged. If raw parts were among them,
            the day must be extracted again.
    """

    parts: int = 0
    summary: PartSummary = field(default_factory=PartSummary)
    damaged: list[str] = field(default_factory=list)


def transform_fingerprint(
    privacy: Privacy, options: SpanOptions = DEFAULTS, names: Names = NO_NAMES
) -> str:
    """Return 8 hex digits that identify the code and settings of the transform.

    They are part of a span part's name, so parts are rebuilt when code or settings change.
    """
    # Of the names, only which kinds are known: spans made before the token had the scope get them
    # when their day is next transformed, but a rename does not rebuild every day, and need not,
    # as what was delivered keeps its old name anyway. Names once known stay known, so this
    # changes at most twice.
    return _short_hash(source_digest(), repr(privacy), repr(options), *names.kinds)


def holds_back_builds(
    day: str, *, raw: RawStore, spans: SpanStore, privacy: Privacy, options: SpanOptions
) -> bool:
    """Whether the day has parts that hold back builds that had finished but not settled."""
    if options.settled_after_s is None:
        return False
    names = retry_past_damage(raw.organizations.names, [])
    fingerprint = transform_fingerprint(privacy, options, names)
    return any(part.fingerprint != fingerprint for part in spans.parts(day))


@cache
def source_digest() -> str:
    """Return the SHA-256 of the source files that determine the spans.

    These are the files of `spans/`, the modules of this package that it imports, and this one.
    """
    digest = sha256()
    files = [Path(one.__file__ or "") for one in (text, units)]
    files += Path(spans_package.__file__ or "").parent.rglob("*.py")
    for file in sorted([*files, Path(__file__)]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _short_hash(*texts: str) -> str:
    return sha256("\0".join(texts).encode()).hexdigest()[:8]


def _fingerprint_without(held: Collection[str], fingerprint: str) -> str:
    """Return the fingerprint of a part that holds back the builds `held`."""
    return _short_hash(fingerprint, *sorted(held)) if held else fingerprint


def transform_day(
    day: str,
    *,
    raw: RawStore,
    spans: SpanStore,
    privacy: Privacy = DEFAULT_PRIVACY,
    options: SpanOptions = DEFAULTS,
    clock: Clock = SYSTEM_CLOCK,
    full_refresh: bool = False,
    progress: Progress = no_progress,
    result: Transformation | None = None,
) -> Transformation:
    """Write a span part for each raw part of `day` that has none with the current fingerprint.

    A build that cannot be transformed is quarantined with its reason; the others go on.

    Args:
        day: The partition.
        raw: The raw store; also has the names of organizations and clusters.
        spans: The span store.
        privacy: What is removed or redacted.
        options: Which spans are made, and when a build counts as settled.
        clock: Tells which builds have settled.
        full_refresh: Rebuild all parts.
        progress: Called after each part.
        result: Updated after each part, so that it is right even if this raises. Returned at
            the end.

    Raises:
        StorageError: The store cannot be read or written.
    """
    result = Transformation() if result is None else result
    damaged = result.damaged
    # Replaced parts too: they count again if the merged part turns out to be damaged.
    existing = retry_past_damage(lambda: (spans.parts(day), spans.all_parts(day))[1], damaged)
    names = retry_past_damage(raw.organizations.names, damaged)
    fingerprint = transform_fingerprint(privacy, options, names)
    done = {
        part.raw_part for part in existing if part.fingerprint == fingerprint and not full_refresh
    }
    settled = _SettledFilter(options, now=clock.now())
    if settled.active:
        settled.learn(retry_past_damage(lambda: raw.revisions(day), damaged))
    current = dict.fromkeys(raw.all_parts(day), fingerprint)
    for raw_part in retry_past_damage(lambda: raw.parts(day), damaged):
        if raw_part in done:
            continue
        summary = PartSummary()
        merged_from = raw.merged_from(day, raw_part)
        try:
            held = settled.held_back(raw.payloads(day, raw_part)) if settled.active else set()
            part = SpanPart(raw_part, _fingerprint_without(held, fingerprint))
            current[raw_part] = part.fingerprint
            if part in existing and not full_refresh:
                continue  # nothing has settled since
            payloads = settled.exported(raw.payloads(day, raw_part), held, summary)
            tables = _span_tables(payloads, options, summary, privacy, names)
            spans.write(day, part, tables, summary, replaces=merged_from)
        except DamagedFile as exc:
            damaged.append(str(exc))
            continue
        if done.issuperset(merged_from) and merged_from:
            continue  # it only merges builds that have spans already
        _add_counts(result.summary, summary)
        result.parts += 1
        spans_made, builds = result.summary.spans, result.summary.builds
        progress(f"{day}: {counted(spans_made, 'span')} of {counted(builds, 'build')}")
    retry_past_damage(
        lambda: _delete_outdated(day, fingerprint, current, raw=raw, spans=spans), damaged
    )
    return result


def _delete_outdated(
    day: str, fingerprint: str, current: Mapping[str, str], *, raw: RawStore, spans: SpanStore
) -> None:
    """Delete parts with outdated fingerprints, and replaced parts whose raw part is gone.

    Args:
        day: The partition.
        fingerprint: The current fingerprint.
        current: The fingerprint by raw part, which differs where builds are held back.
        raw: The raw store.
        spans: The span store.
    """
    visible, raw_present = set(spans.parts(day)), raw.all_parts(day)
    for part in spans.all_parts(day):
        outdated = part.fingerprint != current.get(part.raw_part, fingerprint)
        if outdated or (part not in visible and part.raw_part not in raw_present):
            spans.delete(day, part)


class _BuildEnd(msgspec.Struct):
    """The fields of a payload that tell whether a build has settled."""

    id: str
    finished_at: str | None = None
    blocked: bool | None = None


class _SettledFilter:
    """Holds back builds that may resume, if `options` ask for settled builds only.

    If a build has several records, only the newest is exported.
    """

    def __init__(self, options: SpanOptions, *, now: datetime) -> None:
        self.active = options.settled_after_s is not None
        self._finished_before_ns = to_ns(now) - (options.settled_after_s or 0) * NS_PER_S
        self._newest_ns: dict[str, int] = {}

    def learn(self, revisions: Iterable[Revision]) -> None:
        """Record the newest finish time of each build of the day."""
        for one in revisions:
            known = self._newest_ns.get(one.build_id, 0)
            self._newest_ns[one.build_id] = max(one.finished_ns or 0, known)

    def held_back(self, payloads: Iterable[list[bytes]]) -> set[str]:
        """Return the ids of the builds that have finished but not settled."""
        return {
            one.id
            for group in payloads
            for one in map(_decode_end, group)
            if one and one.finished_at and self._is_newest(one) and not self._is_settled(one)
        }

    def exported(
        self, payloads: Iterable[list[bytes]], held: Container[str], summary: PartSummary
    ) -> Iterator[list[bytes]]:
        """Yield the payloads to transform; count those held back in `summary`."""
        for group in payloads:
            if not self.active:
                yield group
                continue
            kept = []
            for payload in group:
                one = _decode_end(payload)
                if one and one.id in held:
                    summary.builds += 1
                    summary.held_back += 1
                elif one is None or not one.finished_at or self._is_newest(one):
                    kept.append(payload)
            yield kept

    def _is_newest(self, one: _BuildEnd | Build) -> bool:
        assert one.finished_at is not None
        return parse_ns(one.finished_at) >= self._newest_ns.get(one.id, 0)

    def _is_settled(self, one: _BuildEnd | Build) -> bool:
        assert one.finished_at is not None
        return not one.blocked and parse_ns(one.finished_at) <= self._finished_before_ns


def _decode_end(payload: bytes) -> _BuildEnd | Build | None:
    """Decode when the build finished; None if it cannot be read and will be quarantined."""
    try:
        return msgspec.json.decode(payload, type=_BuildEnd)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = decode_or_error(payload)
        return None if isinstance(found, RecordError) else found


def quarantined_builds(day: str, *, spans: SpanStore) -> list[QuarantinedBuild]:
    """Return the builds of `day` that could not be transformed, each once, with the reason."""
    return stored_summary(day, spans=spans).quarantined


def stored_summary(day: str, *, spans: SpanStore) -> PartSummary:
    """Return the summed counts of all span parts of `day`.

    A build that resumed is in several parts and counted in each; a quarantined build is listed once.
    """
    total = PartSummary()
    for part in spans.parts(day):
        _add_counts(total, spans.summary(day, part))
    total.quarantined = list(dict.fromkeys(total.quarantined))
    return total


def _span_tables(
    payloads: Iterable[list[bytes]],
    options: SpanOptions,
    summary: PartSummary,
    privacy: Privacy,
    names: Names,
) -> Iterator[pa.Table]:
    without = fields_left_out(options)
    for group in payloads:
        traces = []
        found = traces_of(group, options=options, names=names)
        for payload, trace in zip(group, found, strict=True):
            if isinstance(trace, RecordError):
                summary.quarantined.append(_quarantine(trace.record_id, trace.reason, privacy))
                continue
            summary.builds += 1
            if trace is None and never_runs(payload):
                summary.skipped += 1
            elif trace is None:
                summary.unfinished += 1
            else:
                traces.append(trace)
        table, errors = table_and_errors(traces, without=without)
        summary.quarantined += [_quarantine(one.record_id, one.reason, privacy) for one in errors]
        _count_spans(summary, table)
        yield privacy.apply(with_costs(table, options.prices))


def _quarantine(build_id: str | None, reason: str, privacy: Privacy) -> QuarantinedBuild:
    return QuarantinedBuild(privacy.shown("buildkite.build.id", build_id), reason)


def _count_spans(summary: PartSummary, table: pa.Table) -> None:
    if not table.num_rows:
        return
    summary.spans += table.num_rows
    names = table["name"].value_counts().to_pylist()
    summary.jobs += sum(one["counts"] for one in names if one["values"] == SpanKind.JOB)
    adjusted = table["bk_pipeline.time_adjusted"]
    summary.time_adjusted += len(adjusted) - adjusted.null_count
    first = pc.min(table["start"].cast(pa.int64())).as_py()
    summary.first_ns = first if summary.first_ns is None else min(first, summary.first_ns)


def _add_counts(total: PartSummary, one: PartSummary) -> None:
    counts = ("builds", "unfinished", "skipped", "held_back", "spans", "jobs", "time_adjusted")
    for name in (*counts, "quarantined"):
        setattr(total, name, getattr(total, name) + getattr(one, name))
