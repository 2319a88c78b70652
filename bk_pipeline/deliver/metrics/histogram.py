"""Exponential histograms: what the OpenTelemetry SDK makes of the same values, a batch at a time.

The SDK's aggregation takes one value after the other under a lock, and is private to it; a
tenth of a million of them takes it seconds. The buckets here are the same to the last one, which
a test holds against the SDK's own.

Sources: OpenTelemetry specification, "Base2 Exponential Bucket Histogram Aggregation" and
"Exponential Histogram"; opentelemetry-python's `LogarithmMapping`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

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
