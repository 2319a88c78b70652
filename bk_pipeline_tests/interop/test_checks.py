"""What the project ships, as the programs see it that will read it: `checks/main.go`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bk_pipeline.dashboards import DASHBOARDS, FOLDER, METRICS, series
from bk_pipeline_tests.programs import missing
from bk_pipeline_tests.test_docs import PROJECT

pytestmark = pytest.mark.interop

DEPLOY = PROJECT / "deploy"


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    go = shutil.which("go")
    if go is None:
        missing("go", "golang-go")
    made = tmp_path_factory.mktemp("checks") / "checks"
    folder = Path(__file__).with_name("checks")
    subprocess.run([go, "build", "-mod=readonly", "-o", made, "."], cwd=folder, check=True)
    return made


def output(program, *arguments, stdin="", **env):
    done = subprocess.run(
        [program, *arguments],
        env=os.environ | env,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_buildkit_reads_the_dockerfile_and_has_no_warning(program):
    assert output(program, "dockerfile", DEPLOY / "Dockerfile") == ""


def test_compose_reads_its_file_and_resolves_everything(program, tmp_path):
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / ".env").write_text("BUILDKITE_API_TOKEN='a$b'\n")
    file = tmp_path / "deploy" / "compose.yaml"
    found = json.loads(output(program, "compose", file, POSTGRES_PASSWORD="sesame"))["services"]
    assert found.keys() == {"postgres", "migrate", "webserver", "daemon"}
    for name in ("migrate", "webserver", "daemon"):
        given = found[name]["environment"]
        assert given["BUILDKITE_API_TOKEN"] == "a$b"
        assert given["BK_PIPELINE_LEDGER_URL"] == (
            "postgresql://bk_pipeline:sesame@postgres:5432/bk_pipeline"
        )
        build = found[name]["build"]
        assert (build["context"], build["dockerfile"]) == (str(tmp_path), "deploy/Dockerfile")
    [port] = found["webserver"]["ports"]
    assert port["host_ip"] == "127.0.0.1"


def test_compose_asks_for_a_password(program, tmp_path):
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / ".env").touch()
    done = subprocess.run(
        [program, "compose", tmp_path / "deploy" / "compose.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "POSTGRES_PASSWORD" in done.stderr


def test_dashboards_name_the_series_that_prometheus_has(program):
    kinds = {
        name: "gauge" if one.is_gauge else "histogram" if one.is_histogram else "sum"
        for name, one in METRICS.items()
    }
    asked = "".join(f"{name}\t{METRICS[name].unit}\t{kind}\n" for name, kind in kinds.items())
    found = output(program, "series", stdin=asked).splitlines()
    assert found == [series(one) for one in METRICS.values()]


def test_prometheus_reads_the_queries_of_the_dashboard(program):
    [chosen, *_] = [name for name in DASHBOARDS if "metrics" in name]
    made = json.loads((FOLDER / chosen).read_text())
    asked = [target["expr"] for panel in made["panels"] for target in panel["targets"]]
    # Grafana fills these in.
    lines = [re.sub(r"\[\$__\w+\]", "[1h]", one) for one in asked]
    assert len(lines) >= 10
    assert output(program, "promql", stdin="\n".join(lines)) == ""
    assert "parse error" in output(program, "promql", stdin="sum by (a) (b{)")
