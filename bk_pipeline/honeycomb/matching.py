"""Match spans with rules and create their markers. Pure.

Works on the columns of the span table, so that a day's hundreds of thousands of spans cost little;
only matching spans become Python objects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.display import BUILDKITE
from bk_pipeline.honeycomb.rules import Marker, Regression, Rule, Subject
from bk_pipeline.rules import CONDITIONS
from bk_pipeline.spans.fields import Field
from bk_pipeline.spans.matching import (
    QUEUE_MS,
    RUN_MS,
    STARTED,
    WAIT_MS,
    meets,
    wait_ms,
)
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.spans.table import add_attributes
from bk_pipeline.templates import field_named
from bk_pipeline.units import NS_PER_MS, NS_PER_S

BUILD_ID = "buildkite.build.id"
IDENTITY = ("trace_id", "span_id", "name", "start", "end")

# A build's or job's span: trace id and span id.
SpanKey = tuple[bytes, bytes]
Regressions = Mapping[str, Sequence[Regression]]


def columns_for(rules: Iterable[Rule]) -> list[str]:
    """Return the columns of the span table that `rules` need."""
    found = dict.fromkeys([*IDENTITY, RUN_MS, QUEUE_MS, WAIT_MS, STARTED])
    for rule in rules:
        found.update((CONDITIONS[name][rule.kind], None) for name in rule.globs())
        found.update((field.name, None) for field in _fields(rule))
        if rule.regression:
            found[BUILD_ID] = None
    return list(found)


def markers_in(
    tables: Iterable[pa.Table],
    rules: Sequence[Rule],
    *,
    hosts: Collection[str] = (BUILDKITE,),
    held: Collection[SpanKey] = (),
    regressions: Iterable[Regression] = (),
) -> tuple[dict[Subject, Marker], set[SpanKey]]:
    """Return the markers that `rules` define for a day's spans.

    Args:
        tables: Tables with the columns of `columns_for`. If a build or job has several spans, the
            last one wins, and it may no longer match.
        rules: The rules, each with its dataset.
        hosts: Hosts of Buildkite's pages, which markers may link to.
        held: Spans to look for.
        regressions: The changes for the worse that began with the day's builds.

    Returns:
        The markers, and the spans of `held` that are in the tables.
    """
    markers: dict[Subject, Marker] = {}
    seen: set[SpanKey] = set()
    by_build: dict[str, list[Regression]] = {}
    for one in regressions:
        by_build.setdefault(one.build_id, []).append(one)
    for table in tables:
        for kind in dict.fromkeys(rule.kind for rule in rules):
            spans = table.filter(pc.equal(table["name"], str(kind)))
            of_kind = [rule for rule in rules if rule.kind is kind]
            _remove_outdated(markers, spans, {rule.id for rule in of_kind})
            for rule in of_kind:
                matching = spans.filter(_matches(spans, rule))
                if rule.regression:
                    matching = _first_builds(matching, by_build)
                markers.update(_markers(matching, rule, hosts, by_build))
        seen |= _present(table, held)
    return markers, seen


def _remove_outdated(markers: dict[Subject, Marker], spans: pa.Table, rules: set[str]) -> None:
    """Remove the markers of spans that appear again from `markers`."""
    again = _present(spans, {(one.trace_id, one.span_id) for one in markers})
    for subject in [
        one for one in markers if one.rule_id in rules and (one.trace_id, one.span_id) in again
    ]:
        del markers[subject]


def _present(spans: pa.Table, keys: Collection[SpanKey]) -> set[SpanKey]:
    """Return the keys that are in the table."""
    if not keys or not spans.num_rows:
        return set()
    ids = pa.array([span_id.hex() for _, span_id in keys], pa.string())
    found = spans.select(["trace_id", "span_id"]).filter(pc.is_in(spans["span_id"], value_set=ids))
    return {_key(row) for row in found.to_pylist()} & set(keys)


def _matches(spans: pa.Table, rule: Rule) -> pa.ChunkedArray:
    """Return a boolean for each span: whether it matches the rule."""
    # A marker of the wait needs one.
    least_s = 0.0 if rule.min_wait_s is None and rule.at == "wait" else rule.min_wait_s
    return meets(
        spans,
        rule.kind,
        rule.column_globs,
        min_duration_s=rule.min_duration_s,
        min_wait_s=least_s,
    )


def _first_builds(builds: pa.Table, regressions: Regressions) -> pa.Table:
    """Return the builds with which a regression began."""
    ids = pa.array(list(regressions), pa.string())
    return builds.filter(pc.is_in(builds[BUILD_ID].cast(pa.string()), value_set=ids))


def _markers(
    spans: pa.Table, rule: Rule, hosts: Collection[str], regressions: Regressions
) -> Iterator[tuple[Subject, Marker]]:
    fields = _fields(rule)
    waits = wait_ms(spans, rule.kind).to_pylist()
    times = spans.set_column(
        spans.schema.get_field_index("start"), "start", spans["start"].cast(pa.int64())
    )
    times = times.set_column(
        times.schema.get_field_index("end"), "end", times["end"].cast(pa.int64())
    )
    for index, row in enumerate(times.to_pylist()):
        attributes: dict[str, Any] = {}
        for field in fields:
            if row[field.name] is not None:
                add_attributes(field, row[field.name], into=attributes)
        if rule.kind is SpanKind.JOB and waits[index] is not None:
            attributes[WAIT_MS] = waits[index]  # also of a job that never got an agent
        start, end = _time_range(rule, row, waits[index] or 0)
        for name, values in _names(rule, row, regressions):
            known = {**attributes, **values}
            yield (
                Subject(name, rule.dataset, *_key(row)),
                Marker(
                    start_time=start,
                    end_time=end,
                    type=rule.type,
                    message=rule.message.message(known),
                    url=next(filter(None, (page.url(known, hosts) for page in rule.pages)), None),
                ),
            )


def _names(
    rule: Rule, row: Mapping[str, Any], regressions: Regressions
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rule's name in each marker's subject, with the fields that only this marker has."""
    if not rule.regression:
        yield rule.id, {}
        return
    for one in regressions[row[BUILD_ID]]:
        yield f"{rule.id}/{one.name}", one.values


def _time_range(rule: Rule, row: Mapping[str, Any], wait_ms: int) -> tuple[int, int | None]:
    """Return the marker's start and, if it is a range, its end, in whole seconds."""
    start, end = row["start"] // NS_PER_S, row["end"] // NS_PER_S
    match rule.at:
        case "start":
            return start, None
        case "finish":
            return end, None
        case "start-to-finish":
            return start, end
        case "wait":
            # A build waits from its creation on, and so does a job that never started.
            starts_with_wait = rule.kind is SpanKind.BUILD or row[STARTED] is False
            start_ns = row["start"] if starts_with_wait else row["start"] - wait_ms * NS_PER_MS
            return start_ns // NS_PER_S, (start_ns + wait_ms * NS_PER_MS) // NS_PER_S


def _fields(rule: Rule) -> list[Field]:
    """Return the declared fields in the rule's templates."""
    names = [name for one in (rule.message, *rule.pages) for name in one.names]
    return [field for name in names if (field := field_named(name)) is not None]


def _key(row: Mapping[str, Any]) -> SpanKey:
    return bytes.fromhex(row["trace_id"]), bytes.fromhex(row["span_id"])
