"""Measures what faults cost in spans: each kind of fault, under both delivery guarantees.

A day is delivered again and again until a run ends without an error, as Dagster's retries
do; a lasting fault is repaired after the first run that it ends. Then the stored spans are
counted in the sandbox. Nothing waits: the deliveries' clock skips pauses, except in front of a socket.

`python -m benchmarks.faults` also puts the table into `docs/operating.md`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill

import pyarrow as pa

from benchmarks.cost import Cost, cost_of
from benchmarks.figures import Bound, Figure, Report
from benchmarks.kills import KILLS, deliveries, killed
from benchmarks.scenes import (
    NOON,
    TARGETS,
    HastyClock,
    Target,
    Watched,
    day_of,
    send,
    small_batches,
)
from benchmarks.troubles import TROUBLES, Trouble
from bk_pipeline.deliver.delivery import Guarantee
from bk_pipeline.errors import PipelineError
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World

BUILDS = 120
# Batches that pass before the fault.
BEFORE = 1
MOST_RUNS = 20
ONCE, MOST = Guarantee.AT_LEAST_ONCE, Guarantee.AT_MOST_ONCE
COLUMNS = (
    "destination",
    "fault",
    "spans",
    "at least once: lost",
    "doubled",
    "of in doubt",
    "at most once: lost",
    "doubled ",
    "missing and told",
)
NOTE = (
    "Lost: the destination has not stored them and nothing says so. In doubt: under way when an "
    "answer failed to come or the process died; so many may be doubled. Missing and told: "
    "refused by the destination or, at most once, presumed sent; `bk-pipeline ledger` lists "
    "them, or the run says how many."
)
PAGE_WIDTH = 100
PAGE = Path(__file__).parents[1] / "docs" / "operating.md"
BEGIN = "<!-- faults: written by `make fault-table` -->\n"
END = "<!-- /faults -->\n"

Found = dict[tuple[str, str], dict[Guarantee, Cost]]


def run(scratch: Path) -> Report:
    """Return the table, and whether the guarantees held."""
    # The sandbox's server logs clients that were killed during a request.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    sandbox = Sandbox(World(days=0), clock=NOON.timestamp)
    folder = scratch / "faults"
    folder.mkdir()
    found: Found = {}
    with running(sandbox) as url, deliveries() as process:
        for at, (trouble, target) in enumerate(_scenes()):
            costs = found.setdefault((target.name, trouble.name), {})
            for guarantee in Guarantee:
                path = folder / f"{at}-{guarantee}.sqlite"
                costs[guarantee] = _run_scenario(
                    sandbox, url, trouble=trouble, target=target, guarantee=guarantee, path=path
                )
        for name in TARGETS:
            costs = found.setdefault((name, f"`kill -9` at {KILLS} random moments"), {})
            for guarantee in Guarantee:
                place = folder / f"{name}-{guarantee}"
                place.mkdir()
                costs[guarantee] = killed(
                    process, sandbox, url, target=name, guarantee=guarantee, folder=place
                )
    return Report(
        title="faults: what they cost, in spans",
        columns=COLUMNS,
        rows=[(*key, *_cells(found[key])) for key in sorted(found, key=lambda key: key[0])],
        figures=_figures(found),
        notes=[NOTE],
    )


def _scenes() -> Iterator[tuple[Trouble, Target]]:
    for trouble in TROUBLES:
        for name in trouble.targets:
            yield trouble, TARGETS[name]


def _run_scenario(
    sandbox: Sandbox,
    url: str,
    *,
    trouble: Trouble,
    target: Target,
    guarantee: Guarantee,
    path: Path,
) -> Cost:
    """Return the cost of a fault for a day that is delivered until it is complete."""
    sandbox.honeycomb.reset()
    sandbox.otlp.reset()
    sandbox.faults.clear()
    clock = HastyClock()
    made = day_of(BUILDS)
    opened = target.open(url, sandbox.honeycomb_key, clock, trouble.timeouts)
    destination = Watched(small_batches(opened, trouble.batch_items))
    name = destination.name
    Ledger.open(path, clock=clock).close()
    if trouble.kind:
        sandbox.faults.inject(
            target.service,
            trouble.kind,
            **{"path": target.path, "after": BEFORE, **trouble.details},
        )
    in_doubt = 0
    with ExitStack() as scenario:
        scenario.enter_context(trouble.ledger(path))
        for _ in range(MOST_RUNS):
            destination.in_doubt = 0
            unnamed = _run(destination, made, path, clock, guarantee)
            in_doubt += destination.in_doubt
            if unnamed is not None:
                break
            scenario.close()
            sandbox.faults.clear()
            with Ledger.open(path, clock=clock) as ledger:
                known = ledger.summary(name).in_doubt
            in_doubt += max(0, known - destination.in_doubt)
        else:
            raise RuntimeError(f"{target.name}, {trouble.name}: not done after {MOST_RUNS} runs")
    destination.close()
    return cost_of(sandbox, target, made, path, in_doubt=in_doubt, told_by_number=unnamed)


def _run(
    destination: Watched,
    made: Sequence[pa.Table],
    path: Path,
    clock: HastyClock,
    guarantee: Guarantee,
) -> int | None:
    """Return how many spans were rejected without their ids; None if the run failed."""
    try:
        with Ledger.open(path, clock=clock, busy_timeout_s=0.05) as ledger:
            return send(
                made, destination=destination, ledger=ledger, clock=clock, guarantee=guarantee
            ).rejected_unnamed
    except PipelineError:
        return None


def _cells(costs: dict[Guarantee, Cost]) -> tuple[str, ...]:
    once, most = costs[ONCE], costs[MOST]
    numbers = (
        once.spans,
        once.lost,
        once.doubled,
        once.in_doubt,
        most.lost,
        most.doubled,
        most.told,
    )
    return tuple(map(str, numbers))


def _figures(found: Found) -> list[Figure]:
    once = [costs[ONCE] for costs in found.values()]
    most = [costs[MOST] for costs in found.values()]
    none = Bound(most=0)
    return [
        Figure("faults.lost", sum(one.lost for one in once + most), none),
        Figure("faults.doubled_at_most_once", sum(one.doubled for one in most), none),
        Figure("faults.doubled_beyond_in_flight", sum(one.beyond for one in once), none),
    ]


def page_part(report: Report) -> str:
    """Return the table as Markdown, with a description of its columns."""
    lines = [report.columns, tuple("---" for _ in report.columns), *report.rows]
    table = "".join(f"| {' | '.join(cell.strip() for cell in line)} |\n" for line in lines)
    return f"{table}\n" + "".join(f"{fill(note, PAGE_WIDTH)}\n" for note in report.notes)


def main() -> int:
    """Write the table to the documentation; return 1 if a guarantee was violated."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    with TemporaryDirectory(prefix="bk_pipeline-faults-") as scratch:
        report = run(Path(scratch))
    PAGE.write_text(f"{before}{BEGIN}\n{page_part(report)}\n{END}{after}")
    return 0 if all(figure.holds for figure in report.figures) else 1


if __name__ == "__main__":
    sys.exit(main())
