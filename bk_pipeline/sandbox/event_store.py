"""What the Honeycomb side has taken in, and what it noticed about it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

import msgspec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REMARKS_KEPT = 1_000


class StoredEvent(msgspec.Struct, frozen=True):
    """One event as stored. `time_ns` keeps what a datetime cannot: nanoseconds since 1970."""

    dataset: str
    time_ns: int
    samplerate: int
    data: dict[str, Any]

    @property
    def time(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self.time_ns // 1_000)

    @property
    def name(self) -> Any:
        """The span's name, if it has one."""
        return self.data.get("name")


class Remark(msgspec.Struct, frozen=True):
    """Something that Honeycomb takes without a word and that a good client would not send."""

    dataset: str
    column: str
    text: str


class EventStore:
    """Events in order of arrival, and counts that stay right when events are not kept.

    Two events are duplicates if they are in one dataset and have the same
    `trace.trace_id` and `trace.span_id`. Rows with `meta.annotation_type`
    (links, span events) have no span id of their own: they are duplicates if
    all of their content is equal. Events with none of these are never duplicates.
    """

    def __init__(self, *, keep_events: bool) -> None:
        self.keep_events = keep_events
        self._lock = Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self.events: list[StoredEvent] = []
            self.remarks: list[Remark] = []
            self.event_count = 0
            self.remark_count = 0
            self.duplicate_count = 0
            self.distinct_spans = 0
            self.datasets: Counter[str] = Counter()
            # Hashes rather than the ids themselves: a day of a million spans is counted too.
            self._seen: set[int] = set()

    def add(self, event: StoredEvent) -> None:
        key = _key(event)
        with self._lock:
            self.event_count += 1
            self.datasets[event.dataset] += 1
            if self.keep_events:
                self.events.append(event)
            if key is None:
                return
            if key in self._seen:
                self.duplicate_count += 1
                return
            self._seen.add(key)
            if "meta.annotation_type" not in event.data:
                self.distinct_spans += 1

    def remark(self, remark: Remark) -> None:
        """Notes `remark`; all are counted, the first thousand are kept."""
        with self._lock:
            self.remark_count += 1
            if len(self.remarks) < _REMARKS_KEPT:
                self.remarks.append(remark)


def _key(event: StoredEvent) -> int | None:
    data = event.data
    if "meta.annotation_type" in data:
        content = msgspec.json.encode(data, order="deterministic")
        return hash((event.dataset, event.time_ns, content))
    if "trace.trace_id" in data and "trace.span_id" in data:
        return hash((event.dataset, str(data["trace.trace_id"]), str(data["trace.span_id"])))
    return None
