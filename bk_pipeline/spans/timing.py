"""Buildkite's times as integers of nanoseconds since 1970, UTC.

Integers all the way: `int(delta.total_seconds() * 1000)` is off by a millisecond now and
then. What cannot be a time is an error here; what is a time but cannot be right (reversed,
far outside its build) is confined by `jobs.py`, counted and marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from bk_pipeline.units import INT64, NS_PER_S, NS_PER_US, S_PER_DAY

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What 64 signed bits of nanoseconds hold: 1970 to 2262. Earlier and later moments are
# brought to the edge, so that no arithmetic of an encoder or a backend wraps.
EARLIEST_NS = 0
LATEST_NS = INT64[-1]

MICROSECONDS = pa.timestamp("us", tz="UTC")
MOMENT = pa.timestamp("ns", tz="UTC")

# By how much the clocks of a build and its jobs may disagree. Recorded: a first job is
# created 9 to 105 ms before its build, and Buildkite's own example of an answer has a job
# that ends 3 minutes after its build. A time further out is wrong, and moves no build.
DISAGREEMENT_NS = 10 * 60 * NS_PER_S


def parse_ns(text: str) -> int:
    """Nanoseconds since 1970, within 1970 to 2262.

    Reads what Buildkite has written over the years: `2026-01-31T12:00:00.123Z`, offsets
    instead of `Z`, and until 2018 `2015-04-23 16:55:52 UTC`. Without a zone it is UTC.

    Raises:
        ValueError: `text` is not a time.

    Source: recorded answers of the REST API and webhooks, 2015 to 2025.
    """
    moment = datetime.fromisoformat(text.removesuffix(" UTC"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return to_ns(moment)


class Times(dict[str | None, int | None]):
    """`parse_ns` of the texts that it is asked for; None of no text.

    Asking raises ValueError or OverflowError for what is no time. Texts that are `read`
    beforehand, a few thousand at once, cost a fifth.
    """

    def __init__(self) -> None:
        self[None] = self[""] = None

    def __missing__(self, text: str) -> int:
        ns = self[text] = parse_ns(text)
        return ns

    def read(self, texts: Sequence[str | None]) -> None:
        """Know the times of `texts`, if all of them are as Buildkite writes them now, and can be."""
        try:
            moments = pa.array(texts, pa.string()).cast(MICROSECONDS)
        except (pa.ArrowInvalid, UnicodeEncodeError):
            return  # Something else is among them: each will be parsed when it is asked for.
        micros = moments.cast(pa.int64()).fill_null(0).to_numpy()
        if len(micros) and 0 <= micros.min() <= micros.max() < LATEST_NS // NS_PER_US:
            self.update(zip(texts, (micros * NS_PER_US).tolist(), strict=True))
            self[None] = None


def to_ns(moment: datetime) -> int:
    """Nanoseconds since 1970 of an aware `moment`, within 1970 to 2262."""
    since = moment - EPOCH
    seconds = since.days * S_PER_DAY + since.seconds
    ns = seconds * NS_PER_S + since.microseconds * NS_PER_US
    return ns if EARLIEST_NS <= ns <= LATEST_NS else EARLIEST_NS if ns < 0 else LATEST_NS


def from_ns(ns: int) -> datetime:
    """The moment, aware and in UTC, cut to whole microseconds."""
    return EPOCH + timedelta(microseconds=ns // NS_PER_US)
