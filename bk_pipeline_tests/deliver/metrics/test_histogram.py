"""Our histograms compared with the SDK's, through its public API."""

from __future__ import annotations

import random

import numpy as np
import pytest
from opentelemetry.sdk.metrics import Histogram as SdkHistogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View

from bk_pipeline.deliver.metrics.points import MAX_BUCKETS, histogram

DRAW = random.Random(20261121)
HOUR_MS = 3_600_000


def sdk_histogram(values: list[float]):
    reader = InMemoryMetricReader(
        preferred_temporality={SdkHistogram: AggregationTemporality.DELTA}
    )
    view = View(instrument_name="*", aggregation=ExponentialBucketHistogramAggregation())
    provider = MeterProvider([reader], views=[view], shutdown_on_exit=False)
    instrument = provider.get_meter("test").create_histogram("duration")
    for value in values:
        instrument.record(value)
    data = reader.get_metrics_data()
    provider.shutdown()
    [point] = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    return point


def without_trailing_zeros(counts) -> list[int]:
    """Strip trailing zeros, because the SDK's lists grow in powers of two."""
    found = list(counts)
    while found and not found[-1]:
        found.pop()
    return found


CASES = {
    "one": [90_000],
    "zero": [0],
    "zeros": [0] * 7,
    "zero_and_one": [0, 1],
    "one_ms": [1],
    "the_same": [1_234] * 50,
    "zeros_among_others": [0, 5, 0, 7_000, 0, 3],
    "powers_of_two": [2**n for n in range(41)],
    "beside_powers_of_two": [2**n + d for n in range(3, 41) for d in (-1, 0, 1)],
    "just_wider_than_the_buckets": [1_000, 1_000 + MAX_BUCKETS, 3_000],
    "a_month": [1, 31 * 24 * HOUR_MS],
    "the_whole_range": [1, 2**53 - 1],
    **{
        f"uniform_{n}": [DRAW.randrange(0, 10**6) for _ in range(n)] for n in (2, 3, 10, 100, 2_000)
    },
    **{
        f"log_uniform_{n}": [int(10 ** DRAW.uniform(0, 9)) for _ in range(n)]
        for n in (2, 3, 10, 100, 2_000)
    },
    **{
        f"jobs_{n}": [max(int(DRAW.lognormvariate(11, 0.7)), 0) for _ in range(200)]
        for n in range(10)
    },
}


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_histogram_equals_the_sdks(values):
    theirs = sdk_histogram(values)

    ours = histogram(np.array(values))

    assert (ours.scale, ours.zero_count) == (theirs.scale, theirs.zero_count)
    assert ours.counts == without_trailing_zeros(theirs.positive.bucket_counts)
    assert ours.offset == theirs.positive.offset
    assert (ours.count, ours.sum, ours.min, ours.max) == (
        theirs.count,
        theirs.sum,
        theirs.min,
        theirs.max,
    )


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_histogram_of_seconds_equals_the_sdks(values):
    theirs = sdk_histogram([value / 1_000 for value in values])

    ours = histogram(np.array(values), divisor=1_000)

    assert (ours.scale, ours.zero_count) == (theirs.scale, theirs.zero_count)
    assert ours.counts == without_trailing_zeros(theirs.positive.bucket_counts)
    assert ours.offset == theirs.positive.offset
    assert (ours.count, ours.min, ours.max) == (theirs.count, theirs.min, theirs.max)
    assert ours.sum == pytest.approx(theirs.sum)
    assert ours.sum == sum(values) / 1_000


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_every_value_is_in_one_of_at_most_160_buckets(values):
    found = histogram(np.array(values))

    assert len(found.counts) <= MAX_BUCKETS
    assert sum(found.counts) + found.zero_count == found.count == len(values)


def test_histogram_does_not_depend_on_the_order_of_values():
    values = CASES["log_uniform_2000"]

    assert histogram(np.array(values)) == histogram(np.array(sorted(values)))
