"""Measurements to data points: one for each metric, hour and set of attributes. Pure.

A point is a delta: it says what came, and is never taken back. Its window begins with its
hour and ends with the last of its measurements, to which a fraction of a millisecond is
added that follows from which builds and jobs they are. So

- points of one hour that are sent at different times (the hour's builds come in several
  batches, or one of them came late) have different times, and no backend that keeps a value
  for a series and a moment loses one to another;
- the same measurements sent twice make the same points, and such a backend has them once;
- none has its time at the full hour, where a backend would count it to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np

from bk_pipeline.deliver.destination import Item
from bk_pipeline.deliver.metrics.measurements import (
    BODY,
    DIMENSIONS,
    INSTRUMENTS,
    NUMBERS,
    Instrument,
    Measure,
    Series,
)
from bk_pipeline.units import NS_PER_HOUR, NS_PER_MS

# The SDK's defaults, which are the specification's.
MAX_BUCKETS = 160
MAX_SCALE = 20
_FACTOR = math.ldexp(1 / math.log(2), MAX_SCALE)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Values by magnitude: bucket n of `counts` holds those in (b^(offset+n), b^(offset+n+1)].

    b is 2^(2^-scale). Zeros stand apart.
    """

    scale: int
    zero_count: int
    offset: int
    counts: list[int]
    count: int
    sum: int
    min: int
    max: int


def histogram(values: Any) -> Histogram:
    """The histogram of an array of whole numbers, at least one, none negative, below 2^53. Pure."""
    positive = values[values > 0]
    scale, offset, counts = _buckets(positive) if len(positive) else (0, 0, [])
    return Histogram(
        scale=scale,
        zero_count=len(values) - len(positive),
        offset=offset,
        counts=counts,
        count=len(values),
        sum=int(values.sum()),
        min=int(values.min()),
        max=int(values.max()),
    )


def _buckets(values: Any) -> tuple[int, int, list[int]]:
    """Scale, offset and counts: the finest scale at which all fit into `MAX_BUCKETS`."""
    indexes = _indexes(values)
    low, high = int(indexes.min()), int(indexes.max())
    shift = 0
    while (high >> shift) - (low >> shift) >= MAX_BUCKETS:
        shift += 1
    offset = low >> shift
    # A bucket of one scale is two of the next.
    counts = np.bincount((indexes >> shift) - offset)
    return MAX_SCALE - shift, offset, counts.tolist()


def _indexes(values: Any) -> Any:
    """The bucket of each value at the finest scale.

    By `math.log`, as in the SDK: numpy's differs in the last digit now and then, and with it
    the bucket of a value at an edge. Powers of two are edges; no logarithm decides on them.
    """
    logs = np.fromiter(map(math.log, values.tolist()), np.float64, len(values))
    indexes = np.floor(logs * _FACTOR).astype(np.int64)
    mantissas, exponents = np.frexp(values)
    edges = mantissas == 0.5  # noqa: PLR2004  # frexp's form of a power of two
    indexes[edges] = ((exponents[edges].astype(np.int64) - 1) << MAX_SCALE) - 1
    return indexes


Attributes = tuple[tuple[str, str | int | bool], ...]
ENDS = Measure.COUNT
_series = msgspec.msgpack.Decoder(Series)


@dataclass(frozen=True, slots=True)
class Point:
    """A data point. Without a `histogram` its value is its count."""

    instrument: Instrument
    attributes: Attributes
    start_ns: int
    time_ns: int
    count: int
    histogram: Histogram | None


def points_of(items: Sequence[Item]) -> Iterator[Point]:
    """What `items`, made by `measurements.items`, come to: by metric, then by hour."""
    if not items:
        return
    codes: dict[bytes, int] = {}
    of_item = [codes.setdefault(item.shared, len(codes)) for item in items]
    series = [_series.decode(one) for one in codes]
    numbers = np.frombuffer(
        b"".join(piece for item in items for piece in item.pieces), BODY
    ).reshape(-1, NUMBERS)
    ids = np.frombuffer(b"".join(item.item_id for item in items), ">u8").astype(np.uint64)
    for instrument in INSTRUMENTS:
        yield from _points(instrument, series, np.array(of_item), numbers, ids)


def _points(
    instrument: Instrument, series: Sequence[Series], of_item: Any, numbers: Any, ids: Any
) -> Iterator[Point]:
    streams = [(one.hour, _attributes(one, instrument)) for one in series]
    order = {one: n for n, one in enumerate(sorted(dict.fromkeys(streams), key=itemgetter(0)))}
    ours = [one.kind == instrument.kind for one in series]
    places = np.array([order[one] for one in streams])[of_item]
    measured = numbers[:, instrument.measure] >= 0
    rows = np.flatnonzero(np.array(ours)[of_item] & measured)
    rows = rows[np.argsort(places[rows], kind="stable")]
    if not len(rows):
        return
    firsts = np.flatnonzero(np.diff(places[rows], prepend=-1))
    times = _times(
        np.maximum.reduceat(numbers[rows, ENDS], firsts), np.add.reduceat(ids[rows], firsts)
    )
    named = list(order)
    for group, time_ns in zip(np.split(rows, firsts[1:]), times.tolist(), strict=True):
        hour, attributes = named[places[group[0]]]
        values = numbers[group, instrument.measure]
        counts = instrument.measure is Measure.COUNT
        yield Point(
            instrument,
            attributes,
            hour * NS_PER_HOUR,
            time_ns,
            len(group),
            None if counts else histogram(values),
        )


def _attributes(series: Series, instrument: Instrument) -> Attributes:
    """Names and values, without those that have none."""
    values = dict(zip(DIMENSIONS, series.values, strict=True))
    found = ((name, values[name]) for name in instrument.attributes)
    return tuple((name, value) for name, value in found if value is not None)


def _times(latest: Any, mixed: Any) -> Any:
    """The ends of windows whose last measurement is `latest`; `mixed` stands for which they are."""
    fractions = (mixed % np.uint64(NS_PER_MS - 1)).astype(np.int64) + 1
    return latest // NS_PER_MS * NS_PER_MS + fractions
