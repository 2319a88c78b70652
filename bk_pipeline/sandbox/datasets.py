"""A Honeycomb dataset: how elements of a batch become its events.

What is not known of the real service and guessed here: the words for one
event that is too large; that a time which cannot be read becomes the time of
receipt, as a missing one does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from bk_pipeline.sandbox.columns import column_remarks
from bk_pipeline.sandbox.event_store import Remark, StoredEvent
from bk_pipeline.sandbox.intake import (
    EMPTY,
    MALFORMED,
    MAX_EVENT_BYTES,
    MAX_EVENT_COLUMNS,
    TOO_LARGE,
    TOO_MANY_COLUMNS,
    epoch_ns,
    time_ns,
)
from bk_pipeline.sandbox.replies import Refusal

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
