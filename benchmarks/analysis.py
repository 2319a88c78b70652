"""What the critical path adds to the transform: its columns, in microseconds a span.

A tenth of the corpus is transformed with and without, in turn, in one process and in groups that
take a fraction of a second. The least CPU time of all rounds counts, for each group and each side:
a busy machine only adds to it, and between two whole runs would add more than the columns cost.
"""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.corpus import corpus_in
from benchmarks.figures import Figure, Report
from benchmarks.routes.ours import tables_of_payloads
from bk_pipeline.spans.model import SpanOptions

ROUNDS = 7
TENTH = 10
GROUP = 100  # builds
US_PER_S = 1_000_000
WITHOUT, WITH = "without critical path", "with critical path"
OPTIONS = {WITHOUT: SpanOptions(critical_path=False), WITH: SpanOptions()}


def run(scratch: Path) -> Report:
    """Run the benchmark and return its report."""
    payloads = list(corpus_in(scratch).iter_payloads(every=TENTH))
    groups = [payloads[at : at + GROUP] for at in range(0, len(payloads), GROUP)]
    spans, seconds = 0, dict.fromkeys(OPTIONS, 0.0)
    for group in groups:
        spans += _transform(group, OPTIONS[WITH])[1]  # warms up
        rounds = [
            {name: _transform(group, options)[0] for name, options in OPTIONS.items()}
            for _ in range(ROUNDS)
        ]
        for name in OPTIONS:
            seconds[name] += min(one[name] for one in rounds)
    added = seconds[WITH] - seconds[WITHOUT]
    return Report(
        title="analysis: the critical path, in the transform",
        columns=("transform", "spans", "CPU seconds"),
        rows=[(name, f"{spans:,}", f"{taken:.2f}") for name, taken in seconds.items()],
        figures=[Figure("analysis.critical_path_us_per_span", added / spans * US_PER_S)],
        notes=[f"The least of {ROUNDS} rounds for each {GROUP} builds, in one process."],
    )


def _transform(payloads: list[bytes], options: SpanOptions) -> tuple[float, int]:
    """Return the CPU seconds and the number of spans."""
    began = time.process_time()
    spans = sum(table.num_rows for table in tables_of_payloads(payloads, options))
    return time.process_time() - began, spans
