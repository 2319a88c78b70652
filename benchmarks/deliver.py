"""A span table in memory to bytes on the wire: ours, `libhoney`, and the OpenTelemetry SDK.

All send to one loopback sink in a process of its own (`sink.py`), each route in a process of
its own, in turn, several rounds; a figure is the median over the rounds, a ratio the median
of each round's own ratio. The sink decodes what it got after the time is taken: each span
has to be there once. Before anything is measured a tenth of the corpus goes both ways, and
is compared value by value. OTLP goes uncompressed on both sides. Honeycomb's bodies are
compressed as each side does by itself: zstd-1 by ours, gzip-1 by libhoney, which has no other.

What the comparison leaves out. Ours writes each batch to its ledger on disk before it
leaves and after it is answered, and keeps to limits; the others do nothing of the kind, and
that counts against ours. Theirs have to make rows of the table first, since
they take one span at a time; how long that takes alone is in the table. The network is
loopback: with a real round trip, what counts is how many requests are under way (4 of ours,
10 of libhoney's, 1 of the SDK's) and how many spans are in each (500 and 1,000, 101, 512).

Peak memory is of deliveries from Parquet: half of the corpus, and all of it five times, with
other ids each time, which is ten times as much. It is taken once: memory is not noisy.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from benchmarks import ceiling, sink
from benchmarks.corpus import corpus_in
from benchmarks.equality import require_equal
from benchmarks.figures import Bound, Figure, Report, number
from benchmarks.measured import Measured, measured
from benchmarks.parts import write_part
from benchmarks.sent import Sent
from benchmarks.sink import Sink

ROUNDS = 3
MIB = 1024 * 1024
# Take one page of this many, and this many copies.
SMALL, SMALL_EVERY = "small", 10
SOME, SOME_EVERY = "some", 2
# Memory is compared between these. The smaller one has more than a few row groups: with fewer, a
# delivery does not reach its full concurrency, and the allocators' memory is still growing.
SHORT_DAY = SOME
LONG_DAY, LONG_COPIES = "long day", 5

ROUTES = {
    "Honeycomb, ours": "benchmarks.routes.delivered:honeycomb",
    "Honeycomb, libhoney": "benchmarks.routes.libhoney_events:honeycomb",
    "OTLP, ours": "benchmarks.routes.delivered:otlp",
    "OTLP, SDK": "benchmarks.routes.sdk_spans:otlp",
}
ROWS = "rows alone, sent nowhere"
ROWS_ROUTE = "benchmarks.routes.rows:alone"
FROM_DISK = {
    "Honeycomb": "benchmarks.routes.delivered:honeycomb_from_disk",
    "OTLP": "benchmarks.routes.delivered:otlp_from_disk",
}
PAIRS = {
    "Honeycomb, libhoney": "Honeycomb, ours",
    "OTLP, SDK": "OTLP, ours",
}


def run(scratch: Path) -> Report:
    """Run the benchmark and return its report."""
    folder = scratch / "deliver"
    corpus = corpus_in(scratch)
    spans = {
        SMALL: write_part(folder, SMALL, corpus, every=SMALL_EVERY),
        SOME: write_part(folder, SOME, corpus, every=SOME_EVERY),
        LONG_DAY: write_part(folder, LONG_DAY, corpus, copies=LONG_COPIES),
    }
    with sink.running() as there:
        stage = _Stage(folder, there)
        notes = [_agreement(stage, theirs, ours) for theirs, ours in PAIRS.items()]
        notes += [_ceiling(stage, route, spans[SMALL]) for route in PAIRS.values()]
        rounds = [{name: stage.once(name) for name in ROUTES} for _ in range(ROUNDS)]
        rows = [measured(ROWS_ROUTE, stage.part(SOME), there.url)]
        growths = {name: stage.growth(route) for name, route in FROM_DISK.items()}
    notes.append(
        f"Medians of {ROUNDS} rounds, links counted at Honeycomb, as it bills them. Seconds are the "
        "clock's. Nothing was lost or doubled in any of them."
    )
    notes += [
        f"{name} from Parquet: {spans[SHORT_DAY]:,} spans take {short // MIB:,} MiB beyond what "
        f"imports do, {spans[LONG_DAY]:,} take {long // MIB:,} MiB."
        for name, (short, long) in growths.items()
    ]
    table = {name: [one[name] for one in rounds] for name in ROUTES} | {ROWS: rows}
    return Report(
        title="deliver: a span table to bytes on the wire",
        columns=("route", "spans", "seconds", "CPU seconds", "spans/s", "spans/CPU s"),
        rows=[_row(name, runs) for name, runs in table.items()],
        figures=_figures(rounds, growths),
        notes=notes,
    )


class _Stage:
    """The span parts and the sink that all routes use."""

    def __init__(self, folder: Path, there: Sink) -> None:
        self._folder = folder
        self.sink = there

    def part(self, name: str) -> str:
        return str(self._folder / name)

    def once(self, route: str, part: str = SOME) -> Measured:
        """Measure one run of one of `ROUTES`.

        Raises:
            ValueError: The sink has not each of its spans once.
        """
        return self._run(ROUTES[route], part)

    def bodies(self, route: str) -> list[Sent]:
        """Return the bodies that a run of the small part sends."""
        measured(ROUTES[route], self.part(SMALL), self.sink.url)
        return self.sink.taken()

    def growth(self, route: str) -> tuple[int, int]:
        """Return the peak memory in bytes for the short day and for the long one."""
        short, long = (self._run(route, part) for part in (SHORT_DAY, LONG_DAY))
        return short.peak_bytes, long.peak_bytes

    def _run(self, route: str, part: str) -> Measured:
        done = measured(route, self.part(part), self.sink.url)
        totals = self.sink.drain_totals()
        if not totals["spans"] == totals["distinct"] == done.counts["spans"]:
            raise ValueError(
                f"{route} sent {done.counts['spans']:.0f} spans, but the sink received {totals}"
            )
        return done


def _agreement(stage: _Stage, theirs: str, ours: str) -> str:
    return require_equal(stage.bodies(ours), stage.bodies(theirs), theirs)


def _ceiling(stage: _Stage, route: str, spans: int) -> str:
    rate = ceiling.spans_per_s(stage.sink, stage.bodies(route), spans)
    return f"The sink takes {rate:,.0f} spans/s of what {route} sends, from plain sockets."


def _rate(one: Measured) -> float:
    return one.counts["spans"] / one.seconds


def _cpu_rate(one: Measured) -> float:
    return one.counts["spans"] / one.cpu_seconds


def _row(route: str, runs: list[Measured]) -> tuple[str, ...]:
    return (
        route,
        number(runs[0].counts["spans"]),
        f"{median(one.seconds for one in runs):.2f}",
        f"{median(one.cpu_seconds for one in runs):.2f}",
        number(median(map(_rate, runs))),
        number(median(map(_cpu_rate, runs))),
    )


def _figures(
    rounds: list[dict[str, Measured]], growths: dict[str, tuple[int, int]]
) -> list[Figure]:
    def rate(route: str) -> float:
        return median(_rate(one[route]) for one in rounds)

    def speedup(theirs: str) -> float:
        return median(_rate(one[PAIRS[theirs]]) / _rate(one[theirs]) for one in rounds)

    def cpu(theirs: str) -> float:
        return median(_cpu_rate(one[PAIRS[theirs]]) / _cpu_rate(one[theirs]) for one in rounds)

    honeycomb, otlp = PAIRS
    growth = max(long / short for short, long in growths.values())
    return [
        Figure("honeycomb.spans_per_s", rate(PAIRS[honeycomb])),
        Figure("honeycomb.libhoney_spans_per_s", rate(honeycomb)),
        Figure("honeycomb.speedup_vs_libhoney", speedup(honeycomb), Bound(least=10)),
        Figure("honeycomb.cpu_ratio_vs_libhoney", cpu(honeycomb)),
        Figure("otlp.spans_per_s", rate(PAIRS[otlp])),
        Figure("otlp.sdk_spans_per_s", rate(otlp)),
        Figure("otlp.speedup_vs_sdk", speedup(otlp), Bound(least=20)),
        Figure("otlp.cpu_ratio_vs_sdk", cpu(otlp)),
        Figure("deliver.peak_memory_10x_ratio", growth, Bound(most=1.25)),
    ]
