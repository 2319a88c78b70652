"""Spans inside of jobs, written to a store without reading any log."""

from __future__ import annotations

from secrets import token_hex

import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.sources.model import JOB_COLUMNS, DetailSpan, detail_rows
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.store.spans import PartSummary, ReadSource, SpanPart, SpanStore


def sections(start_ns: int, end_ns: int, *, count: int = 3) -> list[DetailSpan]:
    """Return sections that follow each other, from start to end."""
    edges = [start_ns + (end_ns - start_ns) * at // count for at in range(count + 1)]
    return [
        DetailSpan(
            SpanKind.SECTION,
            (str(at),),
            None,
            edges[at],
            edges[at + 1],
            attributes={
                "buildkite.job.section.name": f"section {at}",
                "buildkite.job.section.index": at,
                "buildkite.job.section.phase": "command",
            },
        )
        for at in range(count)
    ]


def write_details(
    store: SpanStore, day: str, *, builds: int | None = None, find=sections
) -> tuple[SpanPart, pa.Table]:
    """Write a part with what `find` gives for the start and end of each job of some builds."""
    tables = store.newest(day, columns=["name", "start", "end", *JOB_COLUMNS])
    jobs = pa.concat_tables(tables).unify_dictionaries()
    jobs = jobs.filter(pc.equal(jobs["name"].cast(pa.string()), SpanKind.JOB))
    if builds is not None:
        some = pc.unique(jobs["trace_id"].cast(pa.string()))[:builds]
        jobs = jobs.filter(pc.is_in(jobs["trace_id"].cast(pa.string()), value_set=some))
    times = zip(
        *(jobs[name].cast(pa.int64()).to_pylist() for name in ("start", "end")), strict=True
    )
    found = [(row, find(*of_job)) for row, of_job in enumerate(times)]
    table = detail_rows(jobs, found, Privacy())
    part = SpanPart(f"details-20240215T120000.000000Z-{token_hex(4)}", "00000001")
    first = pc.min(table["start"].cast(pa.int64())).as_py()
    read = [ReadSource(one, "log", "read") for one in jobs["span_id"].to_pylist()]
    store.write(day, part, [table], PartSummary(spans=len(table), first_ns=first), read=read)
    return part, table
