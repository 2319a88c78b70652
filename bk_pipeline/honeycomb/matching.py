"""Which spans a rule takes, and the marker that it makes of each. Pure.

Works on the span table's columns, so that a day's hundred thousands of spans cost little;
only what is taken becomes Python objects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.honeycomb.marker import Marker, Subject
from bk_pipeline.honeycomb.rules import CONDITIONS, Rule, field_called
from bk_pipeline.spans.fields import Field
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.spans.table import add_attributes
from bk_pipeline.text import Globs
from bk_pipeline.units import MS_PER_S, NS_PER_MS, NS_PER_S

IDENTITY = ("trace_id", "span_id", "name", "start", "end")
RUN_MS = "buildkite.build.run_ms"
QUEUE_MS = "buildkite.build.queue_ms"
WAIT_MS = "buildkite.job.wait_time_ms"
STARTED = "buildkite.job.started"

# A build's or job's span: trace id and span id.
SpanKey = tuple[bytes, bytes]


def columns_for(rules: Iterable[Rule]) -> list[str]:
    """The columns of the span table that `rules` look at."""
    found = dict.fromkeys([*IDENTITY, RUN_MS, QUEUE_MS, WAIT_MS, STARTED])
    for rule in rules:
        found.update((CONDITIONS[name][rule.kind], None) for name in rule.conditions)
        found.update((field.name, None) for field in _fields(rule))
    return list(found)


def markers_in(
    tables: Iterable[pa.Table], rules: Sequence[Rule], *, held: Collection[SpanKey] = ()
) -> tuple[dict[Subject, Marker], set[SpanKey]]:
    """The markers that `rules` ask for of a day's spans; and which spans of `held` are there.

    Args:
        tables: With the columns of `columns_for`; of several spans of one build or job the last
            counts, which may no longer be what a rule asks for.
        rules: Each with its dataset.
        held: Spans of interest.
    """
    wanted: dict[Subject, Marker] = {}
    seen: set[SpanKey] = set()
    for table in tables:
        for kind in dict.fromkeys(rule.kind for rule in rules):
            spans = table.filter(pc.equal(table["name"], str(kind)))
            of_kind = [rule for rule in rules if rule.kind is kind]
            _drop_outdated(wanted, spans, {rule.id for rule in of_kind})
            for rule in of_kind:
                wanted.update(_markers(spans.filter(_taken(spans, rule)), rule))
        seen |= _among(table, held)
    return wanted, seen


def _drop_outdated(wanted: dict[Subject, Marker], spans: pa.Table, rules: set[str]) -> None:
    """Take out of `wanted` what earlier tables said of spans that come again."""
    again = _among(spans, {(one.trace_id, one.span_id) for one in wanted})
    for subject in [
        one for one in wanted if one.rule in rules and (one.trace_id, one.span_id) in again
    ]:
        del wanted[subject]


def _among(spans: pa.Table, keys: Collection[SpanKey]) -> set[SpanKey]:
    """Those of `keys` that are in the table."""
    if not keys or not spans.num_rows:
        return set()
    ids = pa.array([span_id.hex() for _, span_id in keys], pa.string())
    found = spans.select(["trace_id", "span_id"]).filter(pc.is_in(spans["span_id"], value_set=ids))
    return {_key(row) for row in found.to_pylist()} & set(keys)


def _taken(spans: pa.Table, rule: Rule) -> pa.Array:
    """A boolean for each span: whether the rule takes it."""
    taken = pa.chunked_array([pa.array([True] * spans.num_rows, pa.bool_())])
    for name, globs in rule.conditions.items():
        texts = spans[CONDITIONS[name][rule.kind]].cast(pa.string())
        wanted = Globs(globs)
        fitting = [one for one in pc.unique(texts.drop_null()).to_pylist() if one in wanted]
        taken = pc.and_(taken, pc.is_in(texts, value_set=pa.array(fitting, pa.string())))
    if rule.min_duration_s is not None:
        taken = pc.and_(taken, _at_least(_run_ms(spans, rule.kind), rule.min_duration_s))
    if rule.min_wait_s is not None or rule.at == "wait":
        taken = pc.and_(taken, _at_least(_wait_ms(spans, rule.kind), rule.min_wait_s or 0.0))
    return taken


def _at_least(column: Any, seconds: float) -> Any:
    return pc.fill_null(pc.greater_equal(column, seconds * MS_PER_S), False)  # noqa: FBT003  # Arrow's way


def _run_ms(spans: pa.Table, kind: SpanKind) -> Any:
    """How long each ran: of a build its stages, without pauses; null for what never started."""
    if kind is SpanKind.BUILD:
        return spans[RUN_MS]
    return pc.if_else(_never_started(spans), None, _length_ms(spans))


def _wait_ms(spans: pa.Table, kind: SpanKind) -> Any:
    """How long each waited for an agent: a job that never got one, as long as it was there."""
    if kind is SpanKind.BUILD:
        return spans[QUEUE_MS]
    never = pc.if_else(_never_started(spans), _length_ms(spans), None)
    return pc.coalesce(spans[WAIT_MS], never)


def _never_started(spans: pa.Table) -> Any:
    return pc.equal(spans[STARTED], False)  # noqa: FBT003  # Arrow's way


def _length_ms(spans: pa.Table) -> Any:
    length = pc.subtract(spans["end"].cast(pa.int64()), spans["start"].cast(pa.int64()))
    return pc.divide(length, NS_PER_MS)


def _markers(spans: pa.Table, rule: Rule) -> Iterator[tuple[Subject, Marker]]:
    fields = _fields(rule)
    waits = _wait_ms(spans, rule.kind).to_pylist()
    times = spans.set_column(
        spans.schema.get_field_index("start"), "start", spans["start"].cast(pa.int64())
    )
    times = times.set_column(
        times.schema.get_field_index("end"), "end", times["end"].cast(pa.int64())
    )
    for number, row in enumerate(times.to_pylist()):
        attributes: dict[str, Any] = {}
        for field in fields:
            if row[field.name] is not None:
                add_attributes(field, row[field.name], into=attributes)
        if rule.kind is SpanKind.JOB and waits[number] is not None:
            attributes[WAIT_MS] = waits[number]  # also of a job that never got an agent
        start, end = _place(rule, row, waits[number] or 0)
        trace_id, span_id = _key(row)
        yield (
            Subject(rule.id, rule.dataset, trace_id, span_id),
            Marker(
                start_time=start,
                end_time=end,
                type=rule.type,
                message=rule.message.message(attributes),
                url=next(filter(None, (page.url(attributes) for page in rule.pages)), None),
            ),
        )


def _place(rule: Rule, row: Mapping[str, Any], wait_ms: int) -> tuple[int, int | None]:
    """The marker's start and, if it is a range, its end, in whole seconds."""
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
            waited_first = rule.kind is SpanKind.BUILD or row[STARTED] is False
            began = row["start"] if waited_first else row["start"] - wait_ms * NS_PER_MS
            return began // NS_PER_S, (began + wait_ms * NS_PER_MS) // NS_PER_S


def _fields(rule: Rule) -> list[Field]:
    """The declared fields that the rule's templates refer to."""
    names = [name for one in (rule.message, *rule.pages) for name in one.names]
    return [field for name in names if (field := field_called(name)) is not None]


def _key(row: Mapping[str, Any]) -> SpanKey:
    return bytes.fromhex(row["trace_id"]), bytes.fromhex(row["span_id"])
