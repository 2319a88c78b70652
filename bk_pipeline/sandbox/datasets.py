"""A Honeycomb dataset: how elements of a batch become its events.

What is not known of the real service and guessed here: the words for one
event that is too large; that a time which cannot be read becomes the time of
receipt, as a missing one does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

import msgspec

from bk_pipeline.sandbox.bodies import (
    EMPTY,
    MALFORMED,
    MAX_EVENT_BYTES,
    MAX_EVENT_COLUMNS,
    TOO_LARGE,
    TOO_MANY_COLUMNS,
    Refusal,
    epoch_ns,
    time_ns,
)

_MAX_STRING_BYTES = 65_535
_MAX_NAME = 255
_INT64 = 1 << 63
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "float"}
# Strings in the API's description, even where they look like numbers.
_IDS = frozenset({"trace.trace_id", "trace.span_id", "trace.parent_id"})


def column_remarks(data: dict[str, Any], types: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(column, remark) for what Honeycomb may store otherwise than the sender thinks.

    `types` holds the type in which each column of the dataset first came; new
    columns are added to it. Integers and floats count as different types.
    """
    for column, value in data.items():
        kind = _TYPES.get(type(value))
        if kind is None:
            yield column, f"{'null' if value is None else type(value).__name__} is no column value"
            continue
        known = types.setdefault(column, kind)
        if known != kind:
            yield column, f"{kind} in a column that began as {known}"
        remark = _about_value(column, value)
        if remark is not None:
            yield column, remark


def _about_value(column: str, value: float | str) -> str | None:
    if not 0 < len(column) <= _MAX_NAME:
        return f"a column name of {len(column)} characters"
    return _about_text(column, value) if isinstance(value, str) else _about_number(column, value)


def _about_text(column: str, value: str) -> str | None:
    # Four bytes is the most that one character takes.
    if len(value) > _MAX_STRING_BYTES // 4 and len(value.encode()) > _MAX_STRING_BYTES:
        return f"a string of {len(value.encode())} bytes"
    if not value and column == "trace.parent_id":
        return "an empty parent id: neither a root nor a child"
    return None


def _about_number(column: str, value: float) -> str | None:
    if column in _IDS:
        return "an id that is no string"
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return "an integer beyond 64 bits"
    return None


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


MAX_NAME = 255

_HOUR_NS = 3_600 * 1_000_000_000
_element = msgspec.json.Decoder(dict[str, Any])


def slug_of(dataset: str) -> str:
    """The slug under which Honeycomb keeps a dataset of this name."""
    return re.sub(r"[^a-z0-9_~.-]", "-", dataset.strip().lower())


class Dataset:
    """A dataset under the name that its first event gave it.

    Its columns' types are those in which each column first came.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.slug = slug_of(name)
        self._types: dict[str, str] = {}
        # Remarks on elements that have been read and not yet stored, by the event's identity.
        self._pending: dict[int, list[Remark]] = {}

    def read(
        self, elements: Sequence[msgspec.Raw], now_ns: int, max_columns: int
    ) -> list[StoredEvent | str]:
        """For each element the event, or the words in which it is refused. Stores nothing.

        Raises:
            Refusal: With these events the dataset would have too many columns.
        """
        self._pending = {}
        read = [self._read(element, now_ns) for element in elements]
        columns = set(self._types)
        for item in read:
            if isinstance(item, StoredEvent):
                columns.update(item.data)
        if len(columns) > max_columns:
            raise Refusal(400, "Dataset has too many columns.")
        return read

    def remarks_on(self, event: StoredEvent) -> Iterator[Remark]:
        """What there is to say about an event of the last `read`; learns its columns' types."""
        yield from self._pending.get(id(event), ())
        for column, text in column_remarks(event.data, self._types):
            yield Remark(self.name, column, text)

    def _read(self, element: msgspec.Raw, now_ns: int) -> StoredEvent | str:
        if len(memoryview(element)) > MAX_EVENT_BYTES:
            return TOO_LARGE
        try:
            fields = _element.decode(element)
        except msgspec.MsgspecError:
            return MALFORMED
        data = fields.get("data")
        if not isinstance(data, dict):
            return MALFORMED if "data" in fields else EMPTY
        if not data:
            return EMPTY
        if len(data) > MAX_EVENT_COLUMNS:
            return TOO_MANY_COLUMNS
        remarks: list[Remark] = []
        at = self._time(fields, now_ns, remarks)
        event = StoredEvent(self.name, at, self._rate(fields, remarks), data)
        if remarks:
            self._pending[id(event)] = remarks
        return event

    def _time(self, fields: dict[str, Any], now_ns: int, remarks: list[Remark]) -> int:
        """The event's own time if it has a usable one, else `now_ns` and a remark."""
        time = fields.get("time")
        text = "no time: the time of receipt is taken"
        if isinstance(time, str):
            at = time_ns(time)
            if at is None and (at := epoch_ns(time)) is not None:
                remarks.append(Remark(self.name, "time", "Unix time, not RFC 3339"))
            if at is not None and at <= now_ns + _HOUR_NS:
                return at
            text = "no RFC 3339 time" if at is None else "more than an hour ahead"
            text = f"{time[:40]!r} is {text}: the time of receipt is taken"
        elif time is not None:
            text = f"a time that is no string ({type(time).__name__}): the time of receipt is taken"
        remarks.append(Remark(self.name, "time", text))
        return now_ns

    def _rate(self, fields: dict[str, Any], remarks: list[Remark]) -> int:
        rate = fields.get("samplerate", 1)
        if type(rate) is int and rate >= 1:
            return rate
        remarks.append(Remark(self.name, "samplerate", f"{rate!r} is no sample rate: 1 is taken"))
        return 1
