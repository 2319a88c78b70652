"""Payloads to accepted spans: our pipeline, and a straightforward implementation.

Ours with its ledger on disk; theirs as `json`, a DataFrame, and the OpenTelemetry SDK or
`libhoney`. All send to the loopback sink of `deliver`, each route in a process of its own,
in turn, several rounds; a figure is the median over the rounds, a ratio the median of each
round's own. Dagster is left out on both sides: it starts a run in seconds, whatever is in
it. So is how the payloads come into memory, and the Parquet files, ours alone, which let a day
be delivered again without asking for it again.

What arrives is compared before anything is measured: of the spans that both have sent, the
jobs are the same value by value, as far as `agreement.py` compares the tables.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from benchmarks import sink
from benchmarks.agreement import COMPARED
from benchmarks.corpus import corpus_in
from benchmarks.figures import Bound, Figure, Report, number
from benchmarks.measured import Measured, measured
from benchmarks.sent import spans_of
from benchmarks.sink import Sink
from bk_pipeline.spans.model import SpanKind

ROUNDS = 3
EVERY, SMALL_EVERY = 2, 24
# The other route has a subset of our spans: it lacks builds with several stages.
LEAST_IN_COMMON = 0.9

ROUTES = {
    "Honeycomb, ours": "benchmarks.routes.whole:our_honeycomb",
    "Honeycomb, DataFrame + libhoney": "benchmarks.routes.whole:their_honeycomb",
    "OTLP, ours": "benchmarks.routes.whole:our_otlp",
    "OTLP, DataFrame + SDK": "benchmarks.routes.whole:their_otlp",
}
PAIRS = {
    "Honeycomb, DataFrame + libhoney": "Honeycomb, ours",
    "OTLP, DataFrame + SDK": "OTLP, ours",
}


def run(scratch: Path) -> Report:
    """Run the benchmark and return its report."""
    corpus = corpus_in(scratch)
    with sink.running() as there:
        notes = [_agreement(corpus.folder, there, theirs, ours) for theirs, ours in PAIRS.items()]
        rounds = [
            {route: _once(corpus.folder, there, route, EVERY) for route in ROUTES}
            for _ in range(ROUNDS)
        ]
    notes.append(
        f"Medians of {ROUNDS} rounds over one in {EVERY} of the corpus's files. Seconds are the "
        "clock's. Left out on both sides: Dagster's start, reading the payloads, Parquet."
    )
    return Report(
        title="whole: payloads to accepted spans",
        columns=("route", "spans", "seconds", "CPU seconds", "spans/s", "peak MiB"),
        rows=[_row(route, [one[route] for one in rounds]) for route in ROUTES],
        figures=_figures(rounds),
        notes=notes,
    )


def _once(folder: Path, there: Sink, route: str, every: int) -> Measured:
    """Measure one run of one of `ROUTES`.

    Raises:
        ValueError: The sink has not each of its spans once.
    """
    done = measured(ROUTES[route], str(folder), str(every), there.url)
    totals = there.drain_totals()
    if not totals["spans"] == totals["distinct"] == done.counts["spans"]:
        raise ValueError(
            f"{route} sent {done.counts['spans']:.0f} spans, but the sink received {totals}"
        )
    return done


def _agreement(folder: Path, there: Sink, theirs: str, ours: str) -> str:
    """Compare what both sent, and return a sentence on how far it is the same.

    Raises:
        ValueError: They did not.
    """
    left, right = (_jobs(folder, there, route) for route in (ours, theirs))
    both = left.keys() & right.keys()
    if len(both) < LEAST_IN_COMMON * len(right):
        raise ValueError(f"{theirs}: only {len(both)} of {len(right)} jobs are ours too")
    for key in both:
        mine, other = left[key], right[key]
        different = {
            one: (mine.get(one), other.get(one)) for one in mine if mine[one] != other.get(one)
        }
        if different:
            raise ValueError(f"{theirs}: {key} differs (ours, theirs): {different}")
    values = sum(map(len, (left[key] for key in both)))
    return (
        f"{theirs}: {len(both):,} jobs decoded at the sink have the same {values:,} values as ours."
    )


def _jobs(folder: Path, there: Sink, route: str) -> dict[tuple[str, ...], dict[str, object]]:
    """Return the spans of jobs that ran and whose times are those of the payload."""
    measured(ROUTES[route], str(folder), str(SMALL_EVERY), there.url)
    found = {}
    for one in (span for sent in there.taken() for span in spans_of(sent)):
        told = {**one.content, **one.content.get("attributes", {})}
        is_job = told.get("name") == SpanKind.JOB
        block_step = "manual" in str(told.get("buildkite.job.type"))
        if is_job and not block_step and "bk_pipeline.time_adjusted" not in told:
            times = ("start_time_unix_nano", "end_time_unix_nano", "time", "duration_ms")
            names = {*COMPARED, *times} - {"parent_span_id", "status"}
            found[one.key] = {name: told[name] for name in names if name in told}
    return found


def _rate(one: Measured) -> float:
    return one.counts["spans"] / one.seconds


def _row(route: str, runs: list[Measured]) -> tuple[str, ...]:
    return (
        route,
        number(runs[0].counts["spans"]),
        f"{median(one.seconds for one in runs):.2f}",
        f"{median(one.cpu_seconds for one in runs):.2f}",
        number(median(map(_rate, runs))),
        number(median(one.peak_bytes for one in runs) // 2**20),
    )


def _figures(rounds: list[dict[str, Measured]]) -> list[Figure]:
    def rate(route: str) -> float:
        return median(_rate(one[route]) for one in rounds)

    def speedup(theirs: str) -> float:
        return median(_rate(one[PAIRS[theirs]]) / _rate(one[theirs]) for one in rounds)

    def cpu(theirs: str) -> float:
        # Spans a CPU second: what is left of the ratio on a machine that is busy otherwise.
        def of(one: Measured) -> float:
            return one.counts["spans"] / one.cpu_seconds

        return median(of(one[PAIRS[theirs]]) / of(one[theirs]) for one in rounds)

    honeycomb, otlp = PAIRS
    return [
        Figure("whole.honeycomb_spans_per_s", rate(PAIRS[honeycomb])),
        Figure("whole.speedup_vs_libhoney", speedup(honeycomb), Bound(least=6)),
        Figure("whole.cpu_ratio_vs_libhoney", cpu(honeycomb)),
        Figure("whole.otlp_spans_per_s", rate(PAIRS[otlp])),
        Figure("whole.speedup_vs_sdk", speedup(otlp), Bound(least=15)),
        Figure("whole.cpu_ratio_vs_sdk", cpu(otlp)),
    ]
