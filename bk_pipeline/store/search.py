"""Finds builds in the span table by trace id or build number.

Only the columns needed are read, and only row groups whose statistics do not rule the value out,
so searching a year takes about as long as reading a day.
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
COLUMNS = ("trace_id", "parent_span_id", NUMBER, PIPELINE, ORGANIZATION, STATE, CREATED, URL)


@dataclass(frozen=True, slots=True)
class FoundBuild:
    """A build of the span table, described by its root span, and the file that holds it."""

    trace_id: str
    organization: str
    pipeline: str
    number: int
    state: str
    created_at: str
    web_url: str
    file: str


class SpanSearch:
    """Searches the span table of a data directory."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def find_by_trace_id(self, trace_id: str, days: Sequence[str] | None) -> FoundBuild | None:
        """Return the build with this trace id, searching `days`, or all days if None."""
        found = self._find(pc.field("trace_id") == trace_id, days)
        return found[0] if found else None

    def find_by_number(self, number: int, pipeline: str | None) -> list[FoundBuild]:
        """Return the builds of this number, newest first, of one pipeline or (None) of all."""
        predicate = pc.field(NUMBER) == number
        if pipeline is not None:
            predicate &= pc.field(PIPELINE) == pipeline
        return self._find(predicate, None)

    def spans(self, build: FoundBuild) -> pa.Table:
        """Return the build's rows of the span table."""
        predicate = pc.field("trace_id") == build.trace_id
        return self._folder.scan([build.file], SCHEMA, predicate).drop_columns(Folder.FILE_COLUMN)

    def _files(self, days: Sequence[str] | None) -> list[str]:
        if days is None:
            found = self._folder.names_recursive(SPANS, suffix=PARQUET)
            return [f"{SPANS}/{name}" for name in found]
        folders = [f"{SPANS}/{day}" for day in days]
        return [
            f"{folder}/{name}"
            for folder in folders
            for name in self._folder.names(folder, suffix=PARQUET)
        ]

    def _find(self, predicate: pc.Expression, days: Sequence[str] | None) -> list[FoundBuild]:
        names = self._files(days)
        schema = pa.schema([SCHEMA.field(name) for name in COLUMNS])
        table = self._folder.scan(names, schema, predicate & pc.field("parent_span_id").is_null())
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
                file=row[Folder.FILE_COLUMN],
            )
            known = newest.get(found.trace_id)
            # Names begin with the fetch time, so the greater name holds the newer record.
            if known is None or known.file < found.file:
                newest[found.trace_id] = found
        return sorted(newest.values(), key=lambda one: one.created_at, reverse=True)
