"""How long a process takes to start: help, the definitions, and commands that answer a question.

CPU seconds of whole processes, from the interpreter's start to its end. Each round runs all of
them in turn, the bare interpreter and `import dagster` among them. The least of all rounds counts,
on both sides of a ratio: a busy machine, and modules that are compiled in the first round, only
add to it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from benchmarks import stand_in
from benchmarks.corpus import DAY, LATER_MS, SEED
from benchmarks.figures import Bound, Figure, Report
from benchmarks.measured import measured
from bk_pipeline.cli.commands import cli
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.world import World

ROUNDS = 5
BUILDS = 20
MOST_HELP = 12
MOST_DEFINITIONS = 1.25
PROGRAM = [sys.executable, "-c", "from bk_pipeline.cli.main import main; main()"]
BARE, DAGSTER, DEFINITIONS = "python -c pass", "import dagster", "import bk_pipeline.definitions"
TRACE, SPANS = "bk-pipeline trace", "bk-pipeline spans"


def run(scratch: Path) -> Report:
    """Measure the starts."""
    helps = {" ".join(("bk-pipeline", *path, "--help")): path for path in every_command()}
    with stand_in.running(BUILDS) as there:
        variables = there.settings(str(scratch / "startup"))
        measured("benchmarks.days:whole", json.dumps(variables))
        payload = _payload()
        file = scratch / "build.json"
        file.write_text(json.dumps(payload))
        commands = {
            BARE: [sys.executable, "-c", "pass"],
            DAGSTER: [sys.executable, "-c", DAGSTER],
            DEFINITIONS: [sys.executable, "-c", DEFINITIONS],
            TRACE: [*PROGRAM, "trace", payload["id"]],
            SPANS: [*PROGRAM, "spans", str(file)],
            **{name: [*PROGRAM, *path, "--help"] for name, path in helps.items()},
        }
        rounds = [
            {name: _cpu_seconds(command, variables, scratch) for name, command in commands.items()}
            for _ in range(ROUNDS)
        ]
    least = {name: min(one[name] for one in rounds) for name in commands}
    slowest = max(helps, key=lambda name: least[name])
    return Report(
        title="startup: CPU seconds of whole processes",
        columns=("process", "CPU seconds", "times python -c pass"),
        rows=[
            (name, f"{seconds:.3f}", f"{seconds / least[BARE]:.1f}")
            for name, seconds in least.items()
        ],
        figures=[
            Figure("startup.help_vs_python", least[slowest] / least[BARE], Bound(most=MOST_HELP)),
            Figure(
                "startup.definitions_vs_dagster",
                least[DEFINITIONS] / least[DAGSTER],
                Bound(most=MOST_DEFINITIONS),
            ),
            Figure("startup.trace_s", least[TRACE]),
            Figure("startup.spans_s", least[SPANS]),
        ],
        notes=[f"The least of {ROUNDS} rounds. Help: the slowest, {slowest}."],
    )


def every_command(group: click.Group = cli, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return `group` itself, as (), and the paths of all commands below it."""
    found = [path]
    for name, command in group.commands.items():
        inner = (*path, name)
        found += every_command(command, inner) if isinstance(command, click.Group) else [inner]
    return found


def _payload() -> dict[str, str]:
    """One of the builds that the stand-in serves, and the span table has."""
    world = World(seed=SEED, days=1, builds_per_day=BUILDS, today=DAY)
    life = world.builds(DAY)[BUILDS // 2]
    build = build_as_of(life, life.created_ms + LATER_MS)
    assert build is not None
    return build


def _cpu_seconds(command: list[str], variables: Mapping[str, str], folder: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(  # noqa: S603  # our own
        command,
        check=True,
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
