"""Payloads to accepted spans in one process.

Ours is what `pipeline.transform_day` and `deliver_day` do, ledger and all, without the
Parquet files between them. Theirs is what one would write first: `json`, a dictionary a
span, a DataFrame, and its rows handed to a library one by one. Theirs are the routes
`dict_rows.py`, `sdk_spans.py` and `libhoney_events.py` put together, whose modules say what
they leave out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pandas as pd

from benchmarks.corpus import read_payloads, warm_up_payloads
from benchmarks.measured import Work
from benchmarks.routes import libhoney_events, sdk_spans
from benchmarks.routes.delivered import (
    DATASET,
    Open,
    delivered,
    honeycomb_destination,
    otlp_destination,
)
from benchmarks.routes.dict_rows import frame_of_payloads
from benchmarks.routes.ours import tables_of_payloads
from benchmarks.routes.rows import IDENTITY, LISTS, MAPS, Row
from benchmarks.sink import WARM_UP
from bk_pipeline.spans.fields import FIELDS, FieldType

# Pandas types that have to be converted to Python types for the libraries.
PLAIN = {FieldType.INT: int, FieldType.FLOAT: float, FieldType.BOOL: bool}
PLAIN_TYPES = {field.name: PLAIN[field.type] for field in FIELDS if field.type in PLAIN}

Send = Callable[[Iterator[tuple[Row, Row]], str, str], int]


def our_honeycomb(folder: str, every: str, url: str) -> Work:
    """Return the work of one file in `every` in `folder`, sent to Honeycomb."""
    return _ours(honeycomb_destination, folder, every, url)


def our_otlp(folder: str, every: str, url: str) -> Work:
    """Return the same work, sent to an OTLP endpoint."""
    return _ours(otlp_destination, folder, every, url)


def their_honeycomb(folder: str, every: str, url: str) -> Work:
    """Return the work with a DataFrame and `libhoney`."""
    return _theirs(libhoney_events.sent, folder, every, url)


def their_otlp(folder: str, every: str, url: str) -> Work:
    """Return the work with a DataFrame and the OpenTelemetry SDK."""
    return _theirs(sdk_spans.sent, folder, every, url)


def _ours(open_: Open, folder: str, every: str, url: str) -> Work:
    ledgers = Path(mkdtemp(dir=folder))
    few = warm_up_payloads(Path(folder))
    delivered(tables_of_payloads(few), open_(url, WARM_UP), ledgers / "warm-up.sqlite")
    payloads = list(read_payloads(Path(folder), every=int(every)))

    def work() -> dict[str, float]:
        tables = tables_of_payloads(payloads)
        return {"spans": delivered(tables, open_(url, DATASET), ledgers / "ledger.sqlite")}

    return work


def _theirs(send: Send, folder: str, every: str, url: str) -> Work:
    send(_rows(frame_of_payloads(warm_up_payloads(Path(folder)))), url, WARM_UP)
    payloads = list(read_payloads(Path(folder), every=int(every)))

    def work() -> dict[str, float]:
        frame = frame_of_payloads(payloads)
        return {"spans": send(_rows(frame), url, DATASET)}

    return work


def _rows(frame: pd.DataFrame) -> Iterator[tuple[Row, Row]]:
    """Yield the rows of a frame, like `rows.rows_of`."""
    names = list(frame.columns)
    for values in frame.itertuples(index=False, name=None):
        row = dict(zip(names, values, strict=True))
        identity = {name: row.pop(name) for name in IDENTITY}
        identity["start"], identity["end"] = identity["start"].value, identity["end"].value
        if not isinstance(identity["links"], list):
            identity["links"] = []
        if not isinstance(identity["parent_span_id"], str):
            identity["parent_span_id"] = None
        yield identity, dict(_attributes(row))


def _attributes(row: Row) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if value is None or value is pd.NA or value != value:  # noqa: PLR0124  # NaN
            continue
        if name in MAPS:
            for key, one in json.loads(value).items():
                yield MAPS[name] + key, one
        elif name in LISTS:
            yield name, json.loads(value)
        else:
            yield name, PLAIN_TYPES[name](value) if name in PLAIN_TYPES else value
