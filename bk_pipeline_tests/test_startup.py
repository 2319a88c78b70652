"""Start-up: what each command, and the code location, may import.

An import of pandas costs as much as everything else that `bk-pipeline spans` does. To allow a
package where it is not allowed yet, add it here, and see what `python -m benchmarks startup`
says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from benchmarks.startup import every_command
from bk_pipeline.cli.demo import environment
from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline_tests.cli.program import run
from bk_pipeline_tests.spans.goldens import GOLDEN
from bk_pipeline_tests.worlds import recent_world

# Prints the packages that a program imported which are not Python's own.
REPORT = """
import atexit, json, sys
names = {{name.partition(".")[0] for name in sys.modules}}
atexit.register(lambda: print(json.dumps(sorted(
    {{
        name.partition(".")[0]
        for name, module in sys.modules.items()
        # Extension modules have helpers of their own at the top.
        if getattr(module, "__spec__", None) and not name.startswith("_")
    }} - names - sys.stdlib_module_names
))))
{program}
"""
COMMAND = """
sys.argv = ["bk-pipeline", *{arguments}]
from bk_pipeline.cli.main import main
main()
"""
HELP = {"bk_pipeline", "click"}
SETTINGS = HELP | {
    *("annotated_types", "dotenv", "pydantic", "pydantic_core", "pydantic_settings"),
    *("typing_extensions", "typing_inspection"),
}
# pyarrow imports dateutil, and that six, if they are installed.
TABLES = SETTINGS | {"dateutil", "msgspec", "numpy", "pyarrow", "rich", "six"}
SERVICES = TABLES | {
    *("certifi", "charset_normalizer", "filelock", "idna", "requests", "tenacity", "urllib3"),
    "zstandard",
}
DEPLOYMENTS = Path(__file__).parents[1] / "examples" / "deployments.toml"
LEDGER = SERVICES | {"sqlalchemy"}


def imported(program: str, folder, **variables: str) -> set[str]:
    """The packages that `program` imports, Python's own left out."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT.format(program=program)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=folder,
        env={**os.environ, **variables},
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("path", every_command(), ids=" ".join)
def test_help_imports_click_and_nothing_else(tmp_path, path):
    program = COMMAND.format(arguments=[*path, "--help"])
    assert imported(program, tmp_path) == HELP


@pytest.mark.parametrize("shape", ["ndjson", "table", "parquet"])
def test_spans_of_a_file(tmp_path, shape):
    arguments = ["spans", "--format", shape, "--output", "made", str(GOLDEN / "passed.json")]
    assert imported(COMMAND.format(arguments=arguments), tmp_path) <= TABLES


def test_traceparent(tmp_path):
    build = str(uuid4())
    program = COMMAND.format(arguments=["traceparent"])
    found = imported(program, tmp_path, BUILDKITE_BUILD_ID=build, BUILDKITE_JOB_ID=build)
    assert found <= HELP | {"msgspec", "rich", "typing_extensions"}


def test_trace_and_ledger_of_a_delivered_day(tmp_path):
    sandbox = Sandbox(recent_world(days=1, builds_per_day=3))
    with running(sandbox) as url:
        (tmp_path / "sampling.toml").touch()
        variables = environment(sandbox, url) | {
            "BK_PIPELINE_SAMPLING": "sampling.toml",
            "BK_PIPELINE_DEPLOYMENTS": str(DEPLOYMENTS),
        }
        day, _ = sandbox.world.first_and_last_day()
        done = run("backfill", "--from", str(day), "--to", str(day), cwd=tmp_path, **variables)
        assert done.returncode == 0, done.stderr
        now_ms = sandbox.world.now_ms()
        builds = (build_as_of(one, now_ms) for one in sandbox.world.builds(day))
        build = next(one["id"] for one in builds if one and one["finished_at"])
        name = run("ledger", cwd=tmp_path, **variables).stdout.splitlines()[1].split()[0]
        for allowed, *arguments in (
            (SERVICES, "trace", build),
            (SERVICES, "trace", "--fetch", build),
            (SERVICES, "sampling"),
            (SERVICES, "honeycomb", "plan"),
            (TABLES | {"duckdb"}, "sql", "SELECT * FROM jobs"),
            (TABLES | {"duckdb"}, "flaky"),
            (TABLES | {"duckdb"}, "deployments"),
            (LEDGER, "ledger"),
            (LEDGER, "ledger", "rejected", name),
            (LEDGER, "ledger", "requeue", name, "--all"),
            (LEDGER, "ledger", "adopt"),
        ):
            found = imported(COMMAND.format(arguments=arguments), tmp_path, **variables)
            assert found <= allowed, arguments


def test_the_definitions_import_little_besides_dagster(tmp_path):
    of_dagster = imported("import dagster", tmp_path)
    added = imported("import bk_pipeline.definitions as ours; ours.defs()", tmp_path) - of_dagster
    assert added == {"bk_pipeline", "dotenv", "msgspec", "pydantic_settings"}
