"""Makes what is inside of jobs, as the modules of `sources/` find it, for tests of what shows it.

Times are in seconds after the start of the job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.sources.model import DetailSpan, detail_rows
from bk_pipeline.spans.model import SpanKind, SpanStatus
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.table import SCHEMA, rows, table_of
from bk_pipeline.store.spans import PartSummary, SpanPart, SpanStore
from bk_pipeline_tests.builders import make_trace

NS = 1_000_000_000
FAILURE = "bk_pipeline.failure"


def _span(
    kind: SpanKind, identity: Sequence[Any], start_s: float, end_s: float, **fields: Any
) -> DetailSpan:
    given = {key: value for key, value in fields.pop("attributes").items() if value is not None}
    failed = fields.pop("failed", False)
    return DetailSpan(
        kind,
        tuple(map(str, identity)),
        fields.pop("parent", None),
        round(start_s * NS),
        round(end_s * NS),
        status=SpanStatus.ERROR if failed else SpanStatus.UNSET,
        error_type="failed" if failed else None,
        attributes=given,
        **fields,
    )


def section(
    name: str | None,
    start_s: float,
    end_s: float,
    *,
    index: int = 0,
    phase: str = "command",
    failure: tuple[str, str | None, str | None] | None = None,
    **fields: Any,
) -> DetailSpan:
    """A section of a log. `failure` is kind, message and signature of why the job failed in it."""
    prefix = "buildkite.job.section"
    attributes = {f"{prefix}.name": name, f"{prefix}.index": index, f"{prefix}.phase": phase}
    attributes |= {f"{prefix}.bytes": 100, f"{prefix}.lines": 10}
    if failure:
        told = zip(("kind", "message", "signature"), failure, strict=True)
        attributes |= {f"{FAILURE}.{part}": value for part, value in told}
    return _span(
        SpanKind.SECTION,
        [index],
        start_s,
        end_s,
        attributes=attributes,
        failed=failure is not None,
        **fields,
    )


def sections(*lengths: tuple[str, float]) -> list[DetailSpan]:
    """Sections end to end, by name and length."""
    found, start_s = [], 0.0
    for index, (name, length_s) in enumerate(lengths):
        found.append(section(name, start_s, start_s + length_s, index=index))
        start_s += length_s
    return found


def command(text: str, start_s: float, end_s: float, *, parent: int) -> DetailSpan:
    """A command of the section with the index `parent` in the list."""
    attributes = {"buildkite.job.section.command": text}
    identity = [parent, text]
    return _span(SpanKind.COMMAND, identity, start_s, end_s, attributes=attributes, parent=parent)


def suite(name: str, start_s: float, end_s: float, *, failures: int = 0) -> DetailSpan:
    """A test suite."""
    attributes = {
        "test.suite.name": name,
        "test.suite.run.status": "failure" if failures else "success",
        "bk_pipeline.test.cases": 10,
        "bk_pipeline.test.failures": failures,
        "bk_pipeline.test.errors": 0,
        "bk_pipeline.test.skipped": 0,
        "bk_pipeline.artifact.path": "junit.xml",
    }
    failed = bool(failures)
    return _span(SpanKind.SUITE, [name], start_s, end_s, attributes=attributes, failed=failed)


def case(  # each is an attribute
    name: str,
    start_s: float,
    end_s: float,
    *,
    parent: int | None = None,
    class_: str | None = "tests.cart",
    failed: bool = True,
    message: str | None = "expected 3, got 4",
    signature: str | None = "00000000000000aa",
) -> DetailSpan:
    """A test of the suite with the index `parent` in the list."""
    attributes = {
        "test.suite.name": "cart",
        "test.case.name": name,
        "test.case.result.status": "fail" if failed else "pass",
        "bk_pipeline.test.result": "failed" if failed else "passed",
        "bk_pipeline.test.class": class_,
        f"{FAILURE}.message": message if failed else None,
        f"{FAILURE}.signature": signature if failed else None,
    }
    fields = {"attributes": attributes, "parent": parent, "failed": failed}
    return _span(SpanKind.CASE, [parent, class_, name], start_s, end_s, **fields)


def insides_of(
    table: pa.Table, found: Mapping[str, Sequence[DetailSpan]], *, privacy: Privacy | None = None
) -> pa.Table:
    """The rows of the span table for what was found in jobs, by the id of the job."""
    jobs = table.filter(pc.equal(table["name"].cast(pa.string()), str(SpanKind.JOB)))
    started = jobs["start"].cast(pa.int64()).to_pylist()
    ids = jobs["buildkite.job.id"].to_pylist()
    placed = []
    for row, job_id in enumerate(ids):
        if spans := found.get(job_id):
            placed.append((row, [_after(started[row], one) for one in spans]))
    assert len(placed) == len(found)
    return _with_all_columns(detail_rows(jobs, placed, privacy or Privacy()))


def _after(start_ns: int, span: DetailSpan) -> DetailSpan:
    start, end = span.start_ns + start_ns, span.end_ns + start_ns
    return msgspec.structs.replace(span, start_ns=start, end_ns=end)


def write_insides(store: SpanStore, day: str, table: pa.Table, *, number: int = 1) -> None:
    """Write rows of `insides_of` as a part of the day."""
    part = SpanPart(f"details-2026030{number}T000000.000000Z", "00000001")
    store.write(day, part, [table], PartSummary(spans=len(table)), read=[])


def spans_with_insides(
    payload: Any, found: Mapping[str, Sequence[DetailSpan]]
) -> list[dict[str, Any]]:
    """The spans of a build as plain objects, with what was found in its jobs, by their ids."""
    table = table_of([make_trace(payload)])
    return [*rows(table), *rows(insides_of(table, found))]


def _with_all_columns(table: pa.Table) -> pa.Table:
    for field in SCHEMA:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(SCHEMA.names).cast(SCHEMA)
