"""Export requests of items with several resources, and their estimated size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bk_pipeline.deliver.destination import Item, Limits
from bk_pipeline.deliver.otlp.codec import attribute
from bk_pipeline.deliver.otlp.shape import FRAMING_BYTES, RESOURCE, SPAN, body_of, sized
from bk_pipeline.deliver.selection import Batcher, body_bytes

LIMITS = Limits(5_000, 20, shared_framing_bytes=FRAMING_BYTES)
RESOURCES = [
    sized(RESOURCE, attribute(b"\x0a", "service.name", "x" * size)) for size in (1, 90, 400)
]


def items(drawn):
    """Spans with names of the drawn lengths, each with one of three resources."""
    made = []
    for at, (size, which) in enumerate(drawn):
        span = sized(SPAN, sized(b"\x2a", b"n" * size))
        made.append(
            Item(b"t" * 16, at.to_bytes(8), at, "span", (span,), len(span), shared=RESOURCES[which])
        )
    return made


def batches(made):
    batcher = Batcher(LIMITS)
    return [*batcher.add(made), *batcher.flush()]


many = st.lists(st.tuples(st.integers(0, 1_500), st.integers(0, 2)), max_size=80).map(items)


@given(many)
def test_body_size_is_at_most_the_estimate_and_hardly_less(made):
    for batch in batches(made):
        actual, counted = len(body_of(batch)), body_bytes(batch, LIMITS)

        resources = len({item.shared for item in batch})
        assert actual <= counted <= LIMITS.batch_bytes
        assert counted - actual <= 6 * resources


@given(many)
def test_bodies_have_all_spans_once_in_order_within_their_resource(made):
    named: dict[str, list[int]] = {}
    for batch in batches(made):
        groups = ExportTraceServiceRequest.FromString(body_of(batch)).resource_spans
        assert len(groups) == len({item.shared for item in batch})
        for group in groups:
            key = group.resource.SerializeToString()
            (part,) = group.scope_spans
            named.setdefault(key, []).extend(len(span.name) for span in part.spans)

    expected: dict[str, list[int]] = {}
    for item in made:
        (group,) = ExportTraceServiceRequest.FromString(body_of([item])).resource_spans
        expected.setdefault(group.resource.SerializeToString(), []).append(
            len(group.scope_spans[0].spans[0].name)
        )
    assert named == expected


def test_shared_data_is_counted_once_per_batch():
    one, two, other = items([(10, 2), (10, 2), (10, 1)])

    together = body_bytes([one, two], LIMITS)

    assert together == body_bytes([one], LIMITS) + len(two.body)
    assert (
        body_bytes([one, two, other], LIMITS)
        == together + len(other.body) + len(other.shared) + FRAMING_BYTES
    )
