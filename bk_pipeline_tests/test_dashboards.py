"""The dashboards name only what is sent, are up to date, and fit Grafana's schema."""

from __future__ import annotations

import json
import re

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from bk_pipeline import dashboards
from bk_pipeline.dashboards import DASHBOARDS, METRICS, field, label, series, spans
from bk_pipeline.spans.fields import FIELDS
from bk_pipeline.spans.model import SpanKind

METRICS_FILE, TRACES_FILE = "buildkite-metrics.json", "buildkite-traces.json"


def read(name):
    return json.loads((dashboards.FOLDER / name).read_text())


def queries(name, key):
    return [target[key] for panel in read(name)["panels"] for target in panel["targets"]]


def test_files_are_up_to_date(tmp_path, monkeypatch, capsys):
    assert dashboards.main(["--check"]) == 0
    monkeypatch.setattr(dashboards, "FOLDER", tmp_path / "grafana")
    assert dashboards.main(["--check"]) == 1
    assert dashboards.main([]) == 0
    assert dashboards.main(["--check"]) == 0
    changed = tmp_path / "grafana" / TRACES_FILE
    changed.write_text(changed.read_text().replace("Build duration", "Duration"))
    capsys.readouterr()
    assert dashboards.main(["--check"]) == 1
    assert capsys.readouterr().err.count("out of date") == 1


def test_metrics_and_labels_of_queries_are_those_that_are_sent():
    known = {}
    for one in METRICS.values():
        known[series(one)] = {name.replace(".", "_") for name in one.attributes}
    found = set()
    for expression in queries(METRICS_FILE, "expr"):
        for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
            found.add(name)
            by = re.findall(r"sum by \((\w+)\)", expression)
            assert {*by, *re.findall(r"(\w+)=", matchers)} <= known[name], expression
    left = set(known) - found
    # Others show the same.
    assert left == {"buildkite_jobs_duration_milliseconds", "cicd_pipeline_run_duration_seconds"}


def test_variables_ask_for_what_is_sent():
    [_, *variables] = read(METRICS_FILE)["templating"]["list"]
    for one in variables:
        name, attribute = re.fullmatch(r"label_values\((\w+), (\w+)\)", one["query"]).groups()
        [found] = [made for made in METRICS.values() if series(made) == name]
        assert attribute in {made.replace(".", "_") for made in found.attributes}
    used = set(re.findall(r"\$(\w+)\"", " ".join(queries(METRICS_FILE, "expr"))))
    assert used == {one["name"] for one in variables}


def test_attributes_of_traceql_are_those_of_the_spans():
    fields = {(one.resource, one.name): one for one in FIELDS}
    for query in queries(TRACES_FILE, "query"):
        [kind] = re.findall(r'name = "([\w.]+)"', query)
        for scope, name in re.findall(r"\b(span|resource)\.([\w.]+\w)", query):
            assert SpanKind(kind) in fields[scope == "resource", name].kinds, query


def test_unknown_names_are_refused():
    with pytest.raises(KeyError):
        METRICS["buildkite.builds.counts"]
    with pytest.raises(KeyError):
        label(METRICS["buildkite.builds.count"], "buildkite.agent.queue")
    with pytest.raises(StopIteration):
        spans(SpanKind.BUILD, field("buildkite.build.status"))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafanas_own_package_knows_every_key(name):
    written = read(name)
    parsed = json.loads(JSONEncoder().encode(Dashboard.from_json(written)))
    assert contained(written, parsed) == []
    broken = {**written, "timezon": "utc"}
    assert contained(broken, json.loads(JSONEncoder().encode(Dashboard.from_json(broken))))


def contained(ours, theirs, at=""):
    """The paths of what is not the same in a document as the package understands it."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            path
            for key, one in ours.items()
            for path in contained(one, theirs.get(key), f"{at}.{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            path
            for n, pair in enumerate(zip(ours, theirs, strict=True))
            for path in contained(*pair, f"{at}[{n}]")
        ]
    return [] if ours == theirs else [f"{at}: {ours!r} {theirs!r}"]
