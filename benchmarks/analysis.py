"""What the critical path adds to the transform: its columns, in microseconds a span.

A tenth of the corpus is transformed with and without, in turn and in one process; the figure is
the median difference of CPU time over the rounds.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from benchmarks.corpus import corpus_in
from benchmarks.figures import Figure, Report
from benchmarks.routes.ours import tables_of_payloads
from bk_pipeline.spans.model import SpanOptions

ROUNDS = 9
TENTH = 10
US_PER_S = 1_000_000


def run(scratch: Path) -> Report:
    """Run the benchmark and return its report."""
    payloads = list(corpus_in(scratch).iter_payloads(every=TENTH))
    with_path, without = SpanOptions(), SpanOptions(critical_path=False)
    spans = _transform(payloads, with_path)[1]  # warms up
    seconds = [
        (_transform(payloads, without)[0], _transform(payloads, with_path)[0])
        for _ in range(ROUNDS)
    ]
    off, on = (median(column) for column in zip(*seconds, strict=True))
    added = median(after - before for before, after in seconds)
    return Report(
        title="analysis: the critical path, in the transform",
        columns=("transform", "spans", "CPU seconds"),
        rows=[
            ("without critical path", f"{spans:,}", f"{off:.2f}"),
            ("with critical path", f"{spans:,}", f"{on:.2f}"),
        ],
        figures=[Figure("analysis.critical_path_us_per_span", added / spans * US_PER_S)],
        notes=[f"Medians of {ROUNDS} rounds, in one process."],
    )


def _transform(payloads: list[bytes], options: SpanOptions) -> tuple[float, int]:
    """Return the CPU seconds and the number of spans."""
    began = time.process_time()
    spans = sum(table.num_rows for table in tables_of_payloads(payloads, options))
    return time.process_time() - began, spans
