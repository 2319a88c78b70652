"""Our route, as in `pipeline.transform_day`: msgspec structs, column builders, Arrow.

A group of payloads of the size that the raw store gives out at a time becomes spans, and
these a table; the groups' tables are put in a row without a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from bk_pipeline.spans.fields import fields_left_out
from bk_pipeline.spans.model import SpanOptions, Trace
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.table import table_of, traces_of
from bk_pipeline.spans.tree import DEFAULTS
from bk_pipeline.store.raw import ROW_GROUP_BYTES


def table_of_payloads(payloads: Iterable[bytes]) -> pa.Table:
    """Return the span table of payloads."""
    return pa.concat_tables(tables_of_payloads(payloads))


def tables_of_payloads(
    payloads: Iterable[bytes], options: SpanOptions = DEFAULTS
) -> Iterator[pa.Table]:
    """Yield one table per group of payloads, as the span store writes them."""
    for group in _groups(payloads):
        yield _table(group, options)


def private_table_of_payloads(payloads: Iterable[bytes]) -> pa.Table:
    """Return the table with secrets masked, as the pipeline does by default."""
    privacy = Privacy()
    return pa.concat_tables(privacy.apply(_table(group)) for group in _groups(payloads))


def _table(payloads: list[bytes], options: SpanOptions = DEFAULTS) -> pa.Table:
    traces = [one for one in traces_of(payloads, options=options) if isinstance(one, Trace)]
    return table_of(traces, without=fields_left_out(options))


def _groups(payloads: Iterable[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for payload in payloads:
        group.append(payload)
        size += len(payload)
        if size >= ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
