"""Metrics of deployments: rows of the table `deployments` to events, events to items. Pure.

What is counted is an event: a deployment, a change that failed, a lead time, a restoration. A late
build can change what an earlier deployment was: a retry that is stored later may have restored the
service sooner. An event that was counted stays counted, and none is counted twice under another
name. So an event has a key for each span that it is about, and is left out if one of them is
settled:

- a deployment and its lead time: each of its jobs; the lead time also its change (commit, service
  and environment), which may have been deployed before.
- a change that failed: each job of the deployment, and of the rollback that undid it.
- a restoration: each job of the deployments that had failed until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from bk_pipeline.deliver import selection
from bk_pipeline.deliver.destination import Item, Key
from bk_pipeline.deliver.metrics.points import (
    MISSING,
    NUMBER_TYPE,
    NUMBERS,
    ORGANIZATION,
    Instrument,
    Measure,
    Series,
)
from bk_pipeline.deliver.rows import SpanRows
from bk_pipeline.spans.timing import to_ns
from bk_pipeline.units import MS_PER_S, NS_PER_HOUR

SERVICE, ENVIRONMENT = "bk_pipeline.deployment.service", "bk_pipeline.deployment.environment"
KIND, STATUS = "bk_pipeline.deployment.kind", "deployment.status"
LEAD_TIME_FROM = "bk_pipeline.deployment.lead_time_from"
DEPLOYMENT, FAILURE, LEAD_TIME, RESTORATION = "deployment", "failure", "lead time", "restoration"
TARGET = (ORGANIZATION, SERVICE, ENVIRONMENT)

# fmt: off
INSTRUMENTS: Sequence[Instrument] = (
    Instrument("bk_pipeline.deployments", "{deployment}", "Deployments and rollbacks that ended.", DEPLOYMENT, Measure.COUNT, (*TARGET, KIND, STATUS)),
    Instrument("bk_pipeline.deployment.change_failures", "{deployment}", "Deployments that failed or were rolled back.", FAILURE, Measure.COUNT, TARGET),
    Instrument("bk_pipeline.deployment.lead_time", "s", "How long changes took to their first successful deployment.", LEAD_TIME, Measure.DURATION_MS, (*TARGET, LEAD_TIME_FROM)),
    Instrument("bk_pipeline.deployment.time_to_restore", "s", "How long it took from a failed deployment to the next successful one.", RESTORATION, Measure.DURATION_MS, TARGET),
)
# fmt: on
DIMENSIONS = tuple(dict.fromkeys(name for one in INSTRUMENTS for name in one.attributes))
# The names of dimensions in the table.
FIELDS = {
    ORGANIZATION: "organization",
    SERVICE: "service",
    ENVIRONMENT: "environment",
    KIND: "kind",
    STATUS: "outcome",
    LEAD_TIME_FROM: "lead_time_from",
}
# The columns that `event_items` and the delivery loop read.
COLUMNS = (*selection.COLUMNS, "name", "end", "also", "duration_ms", *DIMENSIONS)
KEY_BYTES, TRACE_BYTES = 24, 16
_COUNTED = pa.schema(
    [
        ("trace_id", pa.dictionary(pa.int32(), pa.string())),
        ("span_id", pa.string()),
        ("name", pa.dictionary(pa.int32(), pa.string())),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("links", pa.list_(pa.string())),
        ("also", pa.list_(pa.binary(KEY_BYTES))),
        ("duration_ms", pa.int64()),
        *((name, pa.string()) for name in DIMENSIONS),
    ]
)


class Event(NamedTuple):
    """Something about a deployment that is counted once.

    Attributes:
        name: `DEPLOYMENT`, `FAILURE`, `LEAD_TIME` or `RESTORATION`.
        keys: Its keys in the ledger, at least one.
        time_ns: When it happened: when the deployment, or rollback, ended.
        duration_ms: What is measured, if anything.
        values: The values of `DIMENSIONS`.
    """

    name: str
    keys: tuple[Key, ...]
    time_ns: int
    duration_ms: int
    values: tuple[str | None, ...]


def events_of(rows: Iterable[Mapping[str, Any]]) -> list[Event]:
    """Return the events of rows of the table `deployments`, in time order."""
    found = [event for row in rows for event in _events(row)]
    return sorted(found, key=lambda one: (one.time_ns, one.keys))


def _events(row: Mapping[str, Any]) -> Iterator[Event]:
    own = [f"{row['trace_id']}/{span_id}" for span_id in row["span_ids"]]
    values = tuple(row[FIELDS[name]] for name in DIMENSIONS)
    time_ns = to_ns(row["finished_at"])

    def event(name: str, spans: Iterable[str], *more: Key, seconds: float | None = None) -> Event:
        keys = (*(_key(name, one) for one in spans), *more)
        duration_ms = MISSING if seconds is None else round(seconds * MS_PER_S)
        return Event(name, keys, time_ns, duration_ms, values)

    yield event(DEPLOYMENT, own)
    if row["change_failed"]:
        yield event(FAILURE, [*row["rolled_back"], *own])
    if row["lead_time_s"] is not None:
        yield event(LEAD_TIME, own, *_change(row), seconds=row["lead_time_s"])
    if row["restore_s"] is not None:
        yield event(RESTORATION, row["restored"], seconds=row["restore_s"])


def _key(name: str, span: str) -> Key:
    trace_id, _, span_id = span.partition("/")
    return bytes.fromhex(trace_id), _digest(name, span_id)[:8]


def _change(row: Mapping[str, Any]) -> Iterator[Key]:
    """Yield the key of the change that was deployed, if the commit is known."""
    if row["commit"] is not None:
        names = ("repository", "commit", "service", "environment")
        digest = _digest("change", *(row[name] or "" for name in names))
        yield digest[:TRACE_BYTES], digest[TRACE_BYTES:KEY_BYTES]


def _digest(*parts: str) -> bytes:
    return sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()


def table_of_events(events: Sequence[Event]) -> pa.Table:
    """Return a table that the delivery loop takes, a row for each event."""
    return pa.Table.from_pylist(
        [
            {
                "trace_id": one.keys[0][0].hex(),
                "span_id": one.keys[0][1].hex(),
                "name": one.name,
                "start": one.time_ns,
                "end": one.time_ns,
                "also": [trace_id + item_id for trace_id, item_id in one.keys[1:]],
                "duration_ms": one.duration_ms,
                **dict(zip(DIMENSIONS, one.values, strict=True)),
            }
            for one in events
        ],
        schema=_COUNTED,
    )


def event_items(rows: SpanRows) -> list[Item]:
    """Return the events of rows of `table_of_events` as items, in the same order."""
    content = np.full((len(rows), NUMBERS), MISSING, NUMBER_TYPE)
    content[:, Measure.COUNT] = rows.start_ns
    content[:, Measure.DURATION_MS] = np.asarray(rows.column("duration_ms"))
    series = zip(*(rows.column(name).to_pylist() for name in DIMENSIONS), strict=True)
    columns = (
        rows.build_of_row.tolist(),
        rows.span_ids,
        rows.start_ns.tolist(),
        rows.names(),
        rows.column("also").to_pylist(),
        series,
        content,
    )
    return [
        Item(
            rows.trace_ids[build],
            span_id,
            time_ns,
            name,
            (numbers.tobytes(),),
            numbers.nbytes,
            shared=msgspec.msgpack.encode(Series(time_ns // NS_PER_HOUR, name, values)),
            also=tuple((key[:TRACE_BYTES], key[TRACE_BYTES:]) for key in also),
        )
        for build, span_id, time_ns, name, also, values, numbers in zip(*columns, strict=True)
    ]
