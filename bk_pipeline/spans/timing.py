"""Buildkite's times as integers of nanoseconds since 1970, UTC.

Integers all the way: `int(delta.total_seconds() * 1000)` is off by a millisecond now and
then. What cannot be a time is an error here; what is a time but cannot be right (reversed,
far outside its build) is confined by `jobs.py`, counted and marked.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
# What 64 signed bits of nanoseconds hold: 1970 to 2262. Earlier and later moments are
# brought to the edge, so that no arithmetic of an encoder or a backend wraps.
EARLIEST_NS = 0
LATEST_NS = 2**63 - 1

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


def to_ns(moment: datetime) -> int:
    """Nanoseconds since 1970 of an aware `moment`, within 1970 to 2262."""
    since = moment - EPOCH
    seconds = since.days * 86_400 + since.seconds
    ns = seconds * NS_PER_S + since.microseconds * 1_000
    return ns if EARLIEST_NS <= ns <= LATEST_NS else EARLIEST_NS if ns < 0 else LATEST_NS


def from_ns(ns: int) -> datetime:
    """The moment, aware and in UTC, cut to whole microseconds."""
    return EPOCH + timedelta(microseconds=ns // 1_000)
