"""The columns that every route has to fill, in their order: those of our span table."""

from __future__ import annotations

from bk_pipeline.spans.fields import FIELDS

IDENTITY = ("trace_id", "span_id", "parent_span_id", "name", "start", "end", "status", "links")
COLUMNS = [*IDENTITY, *(field.name for field in FIELDS)]
