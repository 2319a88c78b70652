"""`libhoney`, used as documented: one event per span, responses read in a thread.

Lossless by its own options: it waits where it would drop events or responses. Its batches
are of 101 events, because `Client` does not pass on what it is told of their size. Without
what ours does besides: no ledger, no order in time, no limits of size, and what fails
twice is lost, though here a failure ends the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import libhoney

from benchmarks.measured import Work
from benchmarks.parts import tables_in
from benchmarks.routes.rows import Row, rows_of
from benchmarks.sink import WARM_UP
from bk_pipeline import __version__
from bk_pipeline.spans.fields import FIELDS, SCHEMA_URL

DATASET = "bench"
TAKEN = 202
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RESOURCE = {field.name for field in FIELDS if field.resource}
STATUS_CODES = {"unset": 0, "ok": 1, "error": 2}
FIXED = {
    "meta.signal_type": "trace",
    "library.name": "bk_pipeline",
    "library.version": __version__,
    "resource.schema_url": SCHEMA_URL,
    "scope.schema_url": SCHEMA_URL,
}
OF_SPANS = FIXED | {"span.num_events": 0}
OF_LINKS = FIXED | {"meta.annotation_type": "link"}


def honeycomb(part: str, url: str) -> Work:
    """Return the work of sending from memory."""
    tables = list(tables_in(part))
    sent(rows_of([tables[0][:1_000]]), url, WARM_UP)
    return lambda: {"spans": sent(rows_of(tables), url, DATASET)}


def sent(rows: Iterable[tuple[Row, Row]], url: str, dataset: str) -> int:
    """Send the rows, and return how many were accepted."""
    client = libhoney.Client(
        writekey="key",
        dataset=dataset,
        api_host=url,
        block_on_send=True,
        block_on_response=True,
    )
    statuses: list[int] = []
    reader = Thread(target=_read, args=(client, statuses))
    reader.start()
    for identity, attributes in rows:
        for data in _events(identity, attributes, dataset):
            event = client.new_event(data=data)
            event.created_at = EPOCH + timedelta(microseconds=identity["start"] // 1_000)
            event.send()
    client.close()
    reader.join()
    if failed := sum(status != TAKEN for status in statuses):
        raise RuntimeError(f"{failed} of {len(statuses)} events failed")
    return len(statuses)


def _read(client: libhoney.Client, statuses: list[int]) -> None:
    while (response := client.responses().get()) is not None:
        statuses.append(response["status_code"])


def _events(identity: Row, attributes: Row, service: str) -> Iterator[dict[str, Any]]:
    """Yield the span's event, then those of its links."""
    columns = {name: _column(value) for name, value in attributes.items()}
    failed = {"error": True} if identity["status"] == "error" else {}
    parent = identity["parent_span_id"]
    kind = "server" if parent is None else "internal"
    yield {
        "trace.trace_id": identity["trace_id"],
        "trace.span_id": identity["span_id"],
        **({} if parent is None else {"trace.parent_id": parent}),
        "name": identity["name"],
        "type": kind,
        "span.kind": kind,
        "status_code": STATUS_CODES[identity["status"]],
        **failed,
        "duration_ms": (identity["end"] - identity["start"]) / 1e6,
        "span.num_links": len(identity["links"]),
        **OF_SPANS,
        "service.name": service,
        **columns,
    }
    for link in identity["links"]:
        yield {
            "trace.trace_id": identity["trace_id"],
            "trace.parent_id": identity["span_id"],
            "parent_name": identity["name"],
            "trace.link.trace_id": link["trace_id"],
            "trace.link.span_id": link["span_id"],
            **failed,
            **OF_LINKS,
            "service.name": service,
            **{name: value for name, value in columns.items() if name in RESOURCE},
        }


def _column(value: Any) -> Any:
    """Return a list as Honeycomb stores it: JSON with a newline."""
    return json.dumps(value, separators=(",", ":")) + "\n" if isinstance(value, list) else value
