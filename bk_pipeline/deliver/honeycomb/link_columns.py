"""What a link's event has that its span's has not: whose link it is, and where to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from bk_pipeline.deliver.blobs import BYTES
from bk_pipeline.deliver.honeycomb.fragments import inside
from bk_pipeline.deliver.honeycomb.shape import ERROR, LINK_FIXED, Shape
from bk_pipeline.deliver.pieces import Column, Own, column_of
from bk_pipeline.deliver.selection import column


def link_columns(
    spans: pa.Table, links: Iterable[Mapping[str, str]], shape: Shape
) -> list[Column | None]:
    """The columns of `links`, given the span of each."""
    always = inside(LINK_FIXED | {"service.name": shape.service_name})
    targets = [always + inside(_target(link, shape)) for link in links]
    return [
        column_of(column(spans, "name"), _parent_names),
        column_of(column(spans, "status"), _errors),
        Own((pa.array(targets, BYTES),)),
    ]


def _parent_names(names: pa.Array) -> list[bytes]:
    return [inside({"parent_name": name}) for name in names.to_pylist()]


def _errors(statuses: pa.Array) -> list[bytes]:
    return [inside({"error": True}) if one == ERROR else b"" for one in statuses.to_pylist()]


def _target(link: Mapping[str, str], shape: Shape) -> dict[str, str]:
    trace_id, span_id = link["trace_id"], link["span_id"]
    return {
        "trace.link.trace_id": shape.trace_text(trace_id),
        "trace.link.span_id": shape.linked_span_text(trace_id, span_id),
    }
