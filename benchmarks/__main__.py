"""`python -m benchmarks [name ...]`: run them, print tables, write `benchmarks/latest.json`.

The file holds the figures of this run and no others. Exit status 1 if a needed bound does
not hold. To add a benchmark, add its module to `BENCHMARKS`.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import click
from rich.console import Console
from rich.table import Table

from benchmarks import (
    analysis,
    artifacts,
    changes,
    day,
    deliver,
    extract,
    faults,
    insides,
    live,
    queues,
    sql,
    startup,
    sync,
    transform,
    whole,
)
from benchmarks.figures import Figure, Report, number

BENCHMARKS: list[ModuleType] = [
    startup,
    transform,
    analysis,
    queues,
    sql,
    changes,
    insides,
    deliver,
    whole,
    extract,
    sync,
    day,
    faults,
    live,
    artifacts,
]

NAMES = [module.__name__.rpartition(".")[2] for module in BENCHMARKS]
LATEST = Path(__file__).with_name("latest.json")
VERSIONS = (
    "bk_pipeline",
    "msgspec",
    "pyarrow",
    "duckdb",
    "pandas",
    "numpy",
    "ruptures",
    "scipy",
    "libhoney",
    "opentelemetry-sdk",
)


@click.command(help=f"Run the named benchmarks ({', '.join(NAMES)}), or all of them.")
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
def main(names: tuple[str, ...]) -> None:
    """Run the named benchmarks, or all; exit with 1 if a bound is not met."""
    console = Console()
    console.print(_machine(), highlight=False)
    figures: list[Figure] = []
    with TemporaryDirectory(prefix="bk_pipeline-bench-") as scratch:
        for name, module in zip(NAMES, BENCHMARKS, strict=True):
            if names and name not in names:
                continue
            with console.status(f"{name}: this takes minutes"):
                report = module.run(Path(scratch))
            _print(console, report)
            figures += report.figures
            content = {figure.name: round(figure.value, 4) for figure in figures}
            LATEST.write_text(json.dumps(content, indent=2) + "\n")
    sys.exit(not all(figure.holds for figure in figures))


def _machine() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return (
        f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}\nPython {platform.python_version()}, {versions}"
    )


def _processor() -> str:
    """Return the processor's name, if Linux reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown processor")


def _print(console: Console, report: Report) -> None:
    table = Table(*report.columns, title=report.title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in report.rows:
        table.add_row(*row)
    figures = Table("figure", "value", "needed", "holds")
    figures.columns[1].justify = "right"
    for figure in report.figures:
        needed, holds = "", ""
        if figure.needed:
            needed, holds = str(figure.needed), "yes" if figure.holds else "NO"
        figures.add_row(figure.name, number(figure.value), needed, holds)
    console.print(table, *report.notes, figures, sep="\n", highlight=False)


if __name__ == "__main__":
    main()
