"""Transforms payloads to a span table in memory: our route, and two simpler ones.

Each route runs in a process of its own (see `measured.py` for how time and peak memory are
taken), all of them in turn, several rounds; a figure is the median over the rounds, a ratio
the median of each round's own ratio, so that a noisy moment meets both sides. Speed is by
CPU seconds: no route waits for anything or uses a second core, so on an idle machine they
are the clock's, and on a busy one the queue for the CPU does not count. The payloads are
read from disk as they are asked for, by all routes alike.

All fill the same columns (but only ours the critical path), which is checked before anything is measured: the dictionaries'
table has every row and value of ours; json_normalize's, which is slower by far, knows no
second stage of a build, and so makes some spans fewer. What they leave out, which the corpus
does not ask for, their modules say: `routes/dict_rows.py`, `routes/normalized.py`. A route's
speed is that of the spans that it makes. Speed and memory are compared with the better of
the two in each.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.corpus import Corpus, corpus_in, read_payloads, warm_up_payloads
from benchmarks.figures import Bound, Figure, Report, number
from benchmarks.measured import Measured, Work, measured

ROUNDS = 3
MIB = 1024 * 1024
TENTH = 10

ROUTES = {
    "ours": "benchmarks.routes.ours:table_of_payloads",
    "ours, privacy": "benchmarks.routes.ours:private_table_of_payloads",
    "dicts, DataFrame": "benchmarks.routes.dict_rows:frame_of_payloads",
    "json_normalize": "benchmarks.routes.normalized:frame_of_payloads",
}
OBVIOUS = ("dicts, DataFrame", "json_normalize")
SMALL = "ours, a tenth"

Route = Callable[[Iterable[bytes]], Any]  # a table or a frame


def run(scratch: Path) -> Report:
    """Run the benchmark and return its report."""
    corpus = corpus_in(scratch)
    about = (
        f"Corpus: {corpus.builds:,} builds with {corpus.jobs:,} jobs, "
        f"{corpus.size_bytes / MIB:,.0f} MiB of JSON on disk while this runs."
    )
    how = (
        f"Medians of {ROUNDS} rounds. Speed is by CPU seconds; peak is resident memory beyond "
        "what imports take."
    )
    agreements = _agreements(corpus)
    rounds = [_round(corpus) for _ in range(ROUNDS)]
    return Report(
        title="transform: payloads to a span table",
        columns=("route", "spans", "seconds", "CPU seconds", "spans/s", "peak MiB"),
        rows=[_row(route, [one[route] for one in rounds]) for route in (*ROUTES, SMALL)],
        figures=_figures(rounds),
        notes=[about, *agreements, how],
    )


def prepare(route: str, folder: str, every: str = "1") -> Work:
    """Return the work of a route over the payloads in `folder`, or one file in `every`."""
    table_of = _route(route)
    table_of(warm_up_payloads(Path(folder)))

    def work() -> dict[str, float]:
        return {"spans": len(table_of(read_payloads(Path(folder), every=int(every))))}

    return work


def _route(name: str) -> Route:
    module, _, function = name.partition(":")
    route: Route = getattr(importlib.import_module(module), function)
    return route


def _agreements(corpus: Corpus) -> list[str]:
    from benchmarks.agreement import require_agreement, require_same  # noqa: PLC0415  # not in the children

    payloads = list(read_payloads(corpus.folder, every=TENTH))
    ours = _route(ROUTES["ours"])(payloads)
    dicts, normalized = OBVIOUS
    return [
        require_same(ours, _route(ROUTES[dicts])(payloads), dicts),
        require_agreement(ours, _route(ROUTES[normalized])(payloads), normalized),
    ]


def _round(corpus: Corpus) -> dict[str, Measured]:
    def once(route: str, every: int = 1) -> Measured:
        return measured("benchmarks.transform:prepare", route, str(corpus.folder), str(every))

    small = once(ROUTES["ours"], TENTH)
    return {SMALL: small} | {name: once(route) for name, route in ROUTES.items()}


def _rate(one: Measured) -> float:
    return one.counts["spans"] / one.cpu_seconds


def _row(route: str, runs: list[Measured]) -> tuple[str, ...]:
    return (
        route,
        number(runs[0].counts["spans"]),
        f"{median(one.seconds for one in runs):.2f}",
        f"{median(one.cpu_seconds for one in runs):.2f}",
        number(median(map(_rate, runs))),
        number(median(one.peak_bytes for one in runs) // MIB),
    )


def _figures(rounds: list[dict[str, Measured]]) -> list[Figure]:
    def rate(route: str) -> float:
        return median(_rate(one[route]) for one in rounds)

    speedup = median(
        _rate(one["ours"]) / max(_rate(one[route]) for route in OBVIOUS) for one in rounds
    )
    memory = median(
        one["ours"].peak_bytes / min(one[route].peak_bytes for route in OBVIOUS) for one in rounds
    )
    growth = median(one["ours"].cpu_seconds / one[SMALL].cpu_seconds for one in rounds)
    return [
        Figure("transform.spans_per_s", rate("ours")),
        Figure("transform.with_privacy_spans_per_s", rate("ours, privacy")),
        Figure("transform.pandas_spans_per_s", rate("dicts, DataFrame")),
        Figure("transform.json_normalize_spans_per_s", rate("json_normalize")),
        Figure("transform.speedup_vs_pandas", speedup, Bound(least=4)),
        Figure("transform.memory_vs_pandas", memory, Bound(most=0.5)),
        Figure("transform.time_ratio_10x", growth, Bound(most=11)),
    ]
