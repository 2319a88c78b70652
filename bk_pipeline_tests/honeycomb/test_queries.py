"""What the board's queries and formulas find in the events of a generated day."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain
from statistics import mean

import pyarrow.compute as pc
import pytest

from bk_pipeline.app import App
from bk_pipeline.deliver.honeycomb.plain import span_event
from bk_pipeline.deliver.honeycomb.shape import Shape
from bk_pipeline.honeycomb import queries
from bk_pipeline.honeycomb.design import GRID, design, positions
from bk_pipeline.settings import Settings
from bk_pipeline.spans.table import rows
from bk_pipeline_tests.insides import insides_of, section
from bk_pipeline_tests.worlds import span_table

MADE = design("ci", left_out=(), shown=lambda _, value: str(value), triggers=True, slo=True)
TOKEN = re.compile(r"""\s*(\$[\w.]+|"[^"]*"|\d+|[A-Za-z_]+|[(),])""")
FUNCTIONS = {
    "IF": lambda condition, value, other=None: value if condition else other,
    "EQUALS": lambda a, b: a == b,
    "EXISTS": lambda value: value is not None,
    "AND": lambda *values: all(values),
    "GT": lambda a, b: None if a is None else a > b,
    "LTE": lambda a, b: None if a is None else a <= b,
}


def evaluate(formula, event):
    """The value of a calculated field, by Honeycomb's reference of formulas."""
    tokens = TOKEN.findall(formula)
    assert "".join(tokens) == formula.replace(" ", "")

    def term():
        token = tokens.pop(0)
        if token.startswith("$"):
            return event.get(token[1:])
        if token.startswith('"'):
            return token[1:-1]
        if token in {"true", "false"}:
            return token == "true"
        if token.isdigit():
            return int(token)
        arguments = []
        while tokens.pop(0) != ")":
            arguments.append(term())
        return FUNCTIONS[token](*arguments)

    return term()


@pytest.fixture(scope="module")
def events():
    """The events of a day, with the values of the calculated fields."""
    shape = Shape("ci")
    table = span_table(seed=3, builds=60)
    ended = pc.equal(table["buildkite.job.state"].cast("string"), "failed")
    failed = table.filter(ended)["buildkite.job.id"].to_pylist()
    broken = section("Tests", 0, 1, failure=("test", "expected 3", "0" * 16))
    inside = insides_of(table, {job_id: [broken] for job_id in failed})
    made = [span_event(span, shape)["data"] for span in chain(rows(table), rows(inside))]
    for event in made:
        event |= {one.alias: evaluate(one.formula, event) for one in queries.CALCULATED}
    return made


def matching(spec, events):
    def fits(event, column, op, value=None):
        if op == "exists":
            return event.get(column) is not None
        return event.get(column) in value if op == "in" else event.get(column) == value

    return [one for one in events if all(fits(one, **filter_) for filter_ in spec["filters"])]


SPECS = {one.name: MADE.definition(one) for one in MADE.queries if one.name != "Cost by pipeline"}
SPECS |= {one.name: MADE.trigger_query(one) for one in MADE.triggers}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_query_finds_events_with_its_columns(events, spec):
    found = matching(spec, events)
    assert found
    used = [one["column"] for one in spec["calculations"] if "column" in one]
    for column in (*used, *spec["breakdowns"]):
        assert any(one.get(column) is not None for one in found), column


def test_formulas_agree_with_the_spans(events):
    builds = [one for one in events if one["name"] == queries.BUILD]
    jobs = [one for one in events if one["name"] == queries.JOB]
    failed = [one for one in builds if one[queries.STATE] == "failed"]
    assert mean(one["bk_pipeline.build_failed"] for one in builds) == len(failed) / len(builds)
    assert {one["bk_pipeline.build_failed"] for one in jobs} == {None}
    assert [one["bk_pipeline.job_failed"] for one in jobs] == [int("error" in one) for one in jobs]
    retried = {one.get("buildkite.job.retried_in_job_id") for one in jobs}
    on_retry = [one for one in jobs if one["bk_pipeline.passed_on_retry"] == 1]
    assert on_retry
    assert all(one["buildkite.job.id"] in retried for one in on_retry)
    waits = [one for one in events if one["bk_pipeline.agent_in_time"] is not None]
    assert {one["name"] for one in waits} == {queries.JOB}
    late = [one for one in waits if not one["bk_pipeline.agent_in_time"]]
    assert all(one[queries.WAIT] > 300_000 for one in late)


def test_panels_fill_each_row_without_holes():
    query = next(one for one in MADE.panels if isinstance(one, queries.Query))
    text = next(one for one in MADE.panels if isinstance(one, queries.Text))
    for panels in (MADE.panels, [query], [query] * 3, [text, query, text, query, query]):
        taken = Counter()
        for one in positions(panels):
            assert one["x_coordinate"] == taken[one["y_coordinate"]]
            taken[one["y_coordinate"]] += one["width"]
        assert set(taken.values()) == {GRID}


def test_inside_of_jobs_is_on_the_board_only_if_job_details_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "details.toml"
    file.write_text('[[rule]]\nid = "failed"\nfailed = true\n')
    names = {"Why jobs fail", "Slowest sections"}
    reading = App(Settings.load(BK_PIPELINE_JOB_DETAILS=str(file))).honeycomb_design()
    assert names <= {one.name for one in reading.queries}
    assert "bk_pipeline.failure.kind" in reading.columns
    without = App(Settings.load()).honeycomb_design()
    assert not names & {one.name for one in without.queries}
    assert names <= without.left_out.keys()
    assert "bk_pipeline.failure.kind" not in without.columns
    assert not [one for one in without.panels if "Inside jobs" in getattr(one, "content", "")]
