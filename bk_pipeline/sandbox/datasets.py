"""Honeycomb's datasets: how batch elements become stored events, and what is wrong with them.

Guesses, because the real behavior is not documented: the error message for a
single event that is too large, and that an unreadable time is replaced by the
time of receipt, like a missing one.
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
    ApiError,
    parse_rfc3339_ns,
    parse_unix_time_ns,
)

MAX_NAME = 255

_MAX_STRING_BYTES = 65_535
_MAX_WARNINGS = 1_000
_INT64 = 1 << 63
_HOUR_NS = 3_600 * 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "float"}
# Strings according to the API description, even if they look like numbers.
_IDS = frozenset({"trace.trace_id", "trace.span_id", "trace.parent_id"})
_element_decoder = msgspec.json.Decoder(dict[str, Any])


class StoredEvent(msgspec.Struct, frozen=True):
    """One stored event. `time_ns` is in nanoseconds since 1970, which a datetime cannot hold."""

    dataset: str
    time_ns: int
    samplerate: int
    data: dict[str, Any]

    @property
    def time(self) -> datetime:
        """The event's time to the microsecond."""
        return _EPOCH + timedelta(microseconds=self.time_ns // 1_000)

    @property
    def name(self) -> Any:
        """The span's name, or None."""
        return self.data.get("name")


class IngestWarning(msgspec.Struct, frozen=True):
    """Something that Honeycomb accepts silently but that a good client would not send."""

    dataset: str
    column: str
    text: str


def dataset_slug(dataset: str) -> str:
    """The slug that Honeycomb derives from a dataset's name."""
    return re.sub(r"[^a-z0-9_~.-]", "-", dataset.strip().lower())


class Dataset:
    """A dataset. It has the name and the column types of the events that came first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.slug = dataset_slug(name)
        self.types: dict[str, str] = {}
        # Warnings about events that have been parsed but not yet stored, by `id(event)`.
        self._pending: dict[int, list[IngestWarning]] = {}

    def parse(
        self, elements: Sequence[msgspec.Raw], now_ns: int, max_columns: int
    ) -> list[StoredEvent | str]:
        """The event or the error message for each element. Stores nothing.

        Args:
            elements: The elements of a batch.
            now_ns: The time of receipt in nanoseconds since 1970.
            max_columns: How many columns the dataset can have.

        Raises:
            ApiError: The dataset would have too many columns.
        """
        self._pending = {}
        parsed = [self._parse(element, now_ns) for element in elements]
        columns = set(self.types)
        for item in parsed:
            if isinstance(item, StoredEvent):
                columns.update(item.data)
        if len(columns) > max_columns:
            raise ApiError(400, "Dataset has too many columns.")
        return parsed

    def warnings_for(self, event: StoredEvent) -> Iterator[IngestWarning]:
        """The warnings about an event of the last `parse`. Records the types of new columns."""
        yield from self._pending.get(id(event), ())
        for column, text in column_warnings(event.data, self.types):
            yield IngestWarning(self.name, column, text)

    def _parse(self, element: msgspec.Raw, now_ns: int) -> StoredEvent | str:
        if len(memoryview(element)) > MAX_EVENT_BYTES:
            return TOO_LARGE
        try:
            fields = _element_decoder.decode(element)
        except msgspec.MsgspecError:
            return MALFORMED
        data = fields.get("data")
        if not isinstance(data, dict):
            return MALFORMED if "data" in fields else EMPTY
        if not data:
            return EMPTY
        if len(data) > MAX_EVENT_COLUMNS:
            return TOO_MANY_COLUMNS
        warnings: list[IngestWarning] = []
        time_ns = self._time_ns(fields, now_ns, warnings)
        event = StoredEvent(self.name, time_ns, self._rate(fields, warnings), data)
        if warnings:
            self._pending[id(event)] = warnings
        return event

    def _time_ns(self, fields: dict[str, Any], now_ns: int, warnings: list[IngestWarning]) -> int:
        """The event's own time if it is usable, else `now_ns` and a warning."""
        time = fields.get("time")
        text = "no time: using the time of receipt"
        if isinstance(time, str):
            time_ns = parse_rfc3339_ns(time)
            if time_ns is None and (time_ns := parse_unix_time_ns(time)) is not None:
                warnings.append(IngestWarning(self.name, "time", "Unix time, not RFC 3339"))
            if time_ns is not None and time_ns <= now_ns + _HOUR_NS:
                return time_ns
            text = "not an RFC 3339 time" if time_ns is None else "more than an hour in the future"
            text = f"{time[:40]!r} is {text}: using the time of receipt"
        elif time is not None:
            text = f"time is not a string ({type(time).__name__}): using the time of receipt"
        warnings.append(IngestWarning(self.name, "time", text))
        return now_ns

    def _rate(self, fields: dict[str, Any], warnings: list[IngestWarning]) -> int:
        rate = fields.get("samplerate", 1)
        if type(rate) is int and rate >= 1:
            return rate
        text = f"{rate!r} is not a sample rate: using 1"
        warnings.append(IngestWarning(self.name, "samplerate", text))
        return 1


class EventStore:
    """Events in order of arrival, and counts that are right even if events are not stored.

    Two events are duplicates if they are in one dataset and have the same
    `trace.trace_id` and `trace.span_id`. Rows with `meta.annotation_type`
    (links, span events) have no span id of their own: they are duplicates if
    all of their content is equal. Events with none of these are never
    duplicates.

    Args:
        keep_events: If False, events are counted but not stored.
    """

    def __init__(self, *, keep_events: bool) -> None:
        self.keep_events = keep_events
        self._lock = Lock()
        self.clear()

    def clear(self) -> None:
        """Forget all events, warnings and counts."""
        with self._lock:
            self.events: list[StoredEvent] = []
            self.warnings: list[IngestWarning] = []
            self.event_count = 0
            self.warning_count = 0
            self.duplicate_count = 0
            self.distinct_spans = 0
            self.datasets: Counter[str] = Counter()
            # Hashes use less memory than ids: a day can have a million spans.
            self._seen: set[int] = set()

    def add(self, event: StoredEvent) -> None:
        """Count an event, and store it if events are kept."""
        key = _duplicate_key(event)
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

    def add_warning(self, warning: IngestWarning) -> None:
        """Count a warning, and store it if it is one of the first thousand."""
        with self._lock:
            self.warning_count += 1
            if len(self.warnings) < _MAX_WARNINGS:
                self.warnings.append(warning)


def _duplicate_key(event: StoredEvent) -> int | None:
    """A hash that duplicates have in common; None for events that are never duplicates."""
    data = event.data
    if "meta.annotation_type" in data:
        content = msgspec.json.encode(data, order="deterministic")
        return hash((event.dataset, event.time_ns, content))
    if "trace.trace_id" in data and "trace.span_id" in data:
        return hash((event.dataset, str(data["trace.trace_id"]), str(data["trace.span_id"])))
    return None


def column_warnings(data: dict[str, Any], types: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of column and warning for values that Honeycomb may not store as the client expects.

    Integers and floats count as different types.

    Args:
        data: The columns of an event.
        types: The type in which each column of the dataset first came. New columns are added.
    """
    for column, value in data.items():
        kind = _TYPES.get(type(value))
        if kind is None:
            name = "null" if value is None else type(value).__name__
            yield column, f"{name} is not a column value"
            continue
        known = types.setdefault(column, kind)
        if known != kind:
            yield column, f"{kind} in a column of type {known}"
        warning = _value_warning(column, value)
        if warning is not None:
            yield column, warning


def _value_warning(column: str, value: float | str) -> str | None:
    if not 0 < len(column) <= MAX_NAME:
        return f"a column name of {len(column)} characters"
    if isinstance(value, str):
        return _text_warning(column, value)
    return _number_warning(column, value)


def _text_warning(column: str, value: str) -> str | None:
    # A character takes at most four bytes, so short strings need not be encoded.
    if len(value) > _MAX_STRING_BYTES // 4 and len(value.encode()) > _MAX_STRING_BYTES:
        return f"a string of {len(value.encode())} bytes"
    if not value and column == "trace.parent_id":
        return "an empty parent id: neither a root nor a child"
    return None


def _number_warning(column: str, value: float) -> str | None:
    if column in _IDS:
        return "an id that is not a string"
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return "an integer beyond 64 bits"
    return None
