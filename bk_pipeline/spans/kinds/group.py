"""Group spans: one for each group step in each stage, over its steps."""

from __future__ import annotations

from collections.abc import Sequence

from bk_pipeline.spans.model import Group, Span, SpanKind, Stage, Step
from bk_pipeline.spans.status import status_of_all


def group_span(
    group: Group, steps: Sequence[Span], *, span_id: str, parent_id: str, stage: Stage
) -> Span:
    """The span of one group in one stage, as long as its `steps` (at least one) together."""
    code, error_type = status_of_all([(step.status, step.error_type) for step in steps])
    return Span(
        kind=SpanKind.GROUP,
        span_id=span_id,
        parent_id=parent_id,
        start_ns=min(step.start_ns for step in steps),
        end_ns=max(step.end_ns for step in steps),
        status=code,
        error_type=error_type,
        stage=stage,
        group=group,
        step=Step(identity=group.key, key=group.key, type="group", group=group),
        adjusted=any(step.adjusted for step in steps),
    )
