"""Ours, as `pipeline.transform_day` does it: msgspec structs, column builders, Arrow.

A group of pages of the size that the raw store gives out at a time, its payloads' JSON as it
came, spans, a table; the groups' tables are put in a row without a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec
import pyarrow as pa

from bk_pipeline.spans.batch import traces_of
from bk_pipeline.spans.model import Trace
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.spans.table import table_of
from bk_pipeline.store.raw import ROW_GROUP_BYTES

_payloads_in = msgspec.json.Decoder(list[msgspec.Raw]).decode


def table_of_pages(pages: Iterable[bytes]) -> pa.Table:
    return pa.concat_tables(tables_of_pages(pages))


def tables_of_pages(pages: Iterable[bytes]) -> Iterator[pa.Table]:
    """A table a group, as the span store has them."""
    return map(_table, _groups(pages))


def private_table_of_pages(pages: Iterable[bytes]) -> pa.Table:
    """With what looks like a secret masked: what the pipeline does by default."""
    privacy = Privacy()
    return pa.concat_tables(privacy.apply(_table(group)) for group in _groups(pages))


def _table(pages: list[bytes]) -> pa.Table:
    payloads = chain.from_iterable(map(_payloads_in, pages))
    return table_of([one for one in traces_of(payloads) if isinstance(one, Trace)])


def _groups(pages: Iterable[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for page in pages:
        group.append(page)
        size += len(page)
        if size >= ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
