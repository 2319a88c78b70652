"""Finding builds in the span table by what people know of them.

Only the columns asked about are read, and of these only the row groups whose statistics
do not rule the value out: a year is searched in the time that a day takes to be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from bk_pipeline.spans.table import SCHEMA
from bk_pipeline.store.folder import SPANS, Folder
from bk_pipeline.store.raw import PARQUET

NUMBER, PIPELINE = "buildkite.build.number", "buildkite.pipeline.slug"
ORGANIZATION = "buildkite.organization.slug"
STATE, CREATED, URL = (f"buildkite.build.{one}" for one in ("state", "created_at", "web_url"))
ASKED = ("trace_id", "parent_span_id", NUMBER, PIPELINE, ORGANIZATION, STATE, CREATED, URL)


@dataclass(frozen=True, slots=True)
class FoundBuild:
    """A build of the span table, as its root span tells, and the file that has it."""

    trace_id: str
    organization: str
    pipeline: str
    number: int
    state: str
    created_at: str
    web_url: str
    file: str


class SpanSearch:
    """Questions to the span table of a data directory."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def find_by_trace_id(self, trace_id: str, days: Sequence[str] | None) -> FoundBuild | None:
        """The build with this trace id, looked for on these days, or (None) on all."""
        found = self._found(pc.field("trace_id") == trace_id, days)
        return found[0] if found else None

    def find_by_number(self, number: int, pipeline: str | None) -> list[FoundBuild]:
        """The builds of this number, of one pipeline or (None) of all, newest first."""
        wanted = pc.field(NUMBER) == number
        if pipeline is not None:
            wanted &= pc.field(PIPELINE) == pipeline
        return self._found(wanted, None)

    def spans(self, build: FoundBuild) -> pa.Table:
        """The build's rows of the span table."""
        wanted = pc.field("trace_id") == build.trace_id
        return self._folder.scan([build.file], SCHEMA, wanted).drop_columns(Folder.FILE)

    def _files(self, days: Sequence[str] | None) -> list[str]:
        if days is None:
            found = self._folder.names_below(SPANS, suffix=PARQUET)
            return [f"{SPANS}/{name}" for name in found]
        folders = [f"{SPANS}/{day}" for day in days]
        return [
            f"{folder}/{name}"
            for folder in folders
            for name in self._folder.names(folder, suffix=PARQUET)
        ]

    def _found(self, wanted: pc.Expression, days: Sequence[str] | None) -> list[FoundBuild]:
        names = self._files(days)
        schema = pa.schema([SCHEMA.field(name) for name in ASKED])
        table = self._folder.scan(names, schema, wanted & pc.field("parent_span_id").is_null())
        newest: dict[str, FoundBuild] = {}
        for row in table.to_pylist():
            found = FoundBuild(
                trace_id=row["trace_id"],
                organization=row[ORGANIZATION] or "",
                pipeline=row[PIPELINE] or "",
                number=row[NUMBER],
                state=row[STATE] or "",
                created_at=row[CREATED] or "",
                web_url=row[URL] or "",
                file=row[Folder.FILE],
            )
            known = newest.get(found.trace_id)
            # Names begin with when they were fetched: the later one knows the build longer.
            if known is None or known.file < found.file:
                newest[found.trace_id] = found
        return sorted(newest.values(), key=lambda one: one.created_at, reverse=True)
