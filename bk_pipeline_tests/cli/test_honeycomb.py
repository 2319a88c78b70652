"""`bk-pipeline honeycomb` with a running sandbox: plan, apply and prune, and changes by hand."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from bk_pipeline.cli.demo import environment
from bk_pipeline.honeycomb import queries
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World

COSTS = Path(__file__).parents[2] / "examples" / "costs.toml"
ALERTS = {"BK_PIPELINE_HONEYCOMB_TRIGGERS": "1", "BK_PIPELINE_HONEYCOMB_SLO": "1"}
# Without job details, which would take more calls than Honeycomb allows in the minute of a test.
EVERY_QUERY = sum(
    isinstance(one, queries.Query) and one.of != queries.SECTION for one in queries.PANELS
)


class Team:
    """One configuration of `bk-pipeline honeycomb`, and the Honeycomb that it sets up."""

    def __init__(self, sandbox, call, variables, dataset="ci") -> None:
        self.sandbox, self._call, self.slug = sandbox, call, dataset
        self._variables = variables | {"HONEYCOMB_DATASET": dataset}

    def run(self, *arguments, **variables):
        """Run a command; its exit status, lines and errors."""
        done = self._call("honeycomb", *arguments, **self._variables | variables)
        return done.returncode, done.stdout.splitlines(), done.stderr

    def lines(self, *arguments, **variables):
        """The lines of a command that succeeds."""
        status, lines, errors = self.run(*arguments, **variables)
        assert status == 0, errors
        return lines

    def items(self, path, dataset=None):
        """The items of a kind in Honeycomb, by their names."""
        slug = "" if path == "boards" else dataset or self.slug
        key = {"columns": "key_name", "derived_columns": "alias", "queries": "id"}
        items = self.sandbox.honeycomb.management.items(path, slug)
        return {one[key.get(path, "name")]: one for one in items.values()}

    @property
    def board(self):
        return self.items("boards")["Buildkite (ci)"]

    def panel(self, name):
        """The panel of a query."""
        annotation = self.items("query_annotations")[name]["id"]
        [panel] = [
            one
            for one in self.board["panels"]
            if one.get("query_panel", {}).get("query_annotation_id") == annotation
        ]
        return panel


@pytest.fixture
def sandbox():
    return Sandbox(World(days=0))


@pytest.fixture
def team_of(sandbox, call, tmp_path, monkeypatch):
    """Returns a team by its dataset."""
    monkeypatch.chdir(tmp_path)
    with running(sandbox) as url:
        variables = environment(sandbox, url) | {"BK_PIPELINE_COSTS": str(COSTS)}
        yield lambda dataset="ci", **more: Team(sandbox, call, variables | more, dataset)


@pytest.fixture
def team(team_of):
    return team_of()


def test_everything_is_made_before_the_first_event_and_planned_no_more(team):
    planned = team.lines("plan", **ALERTS)
    assert planned[0] == "create\tdataset\tci"
    assert team.items("boards") == {}

    applied = team.lines("apply", **ALERTS)
    assert applied[:-2] == planned[:-1]
    assert applied[-1] == f"Board: {team.board['links']['board_url']}"
    assert len(team.items("query_annotations")) == EVERY_QUERY
    assert set(team.items("triggers")) == {one.name for one in queries.TRIGGERS}
    assert set(team.items("slos")) == {queries.SLO.name}
    panels = team.board["panels"]
    assert [one["type"] for one in panels].count("query") == EVERY_QUERY
    assert panels[-1]["type"] == "slo"

    again = team.lines("plan", **ALERTS)
    assert [line for line in again if "\t" in line] == []
    assert again[-1].endswith(" as they should be.")
    made = team.board
    assert team.lines("apply", **ALERTS)[0].endswith(" unchanged.")
    assert team.board == made


def edited_query(team):
    panel = team.panel("Queue time by queue")["query_panel"]
    made = team.items("queries")
    by_hand = made[panel["query_id"]] | {"id": "byhand", "time_range": 3_600}
    team.sandbox.honeycomb.management.items("queries", team.slug)["byhand"] = by_hand
    panel["query_id"] = "byhand"


def moved_panel(team):
    team.panel("Retries")["position"]["y_coordinate"] += 40


def removed_panel(team):
    team.board["panels"].remove(team.panel("Flaky steps"))


def doubled_panel(team):
    team.board["panels"].append(team.panel("Flaky steps"))


def edited_text(team):
    team.board["panels"][0]["text_panel"]["content"] += "\n\nHello."


def edited_in_the_ui(team):
    """A panel gets another query and annotation, and stays where it is."""
    panel = team.panel("Slowest steps")["query_panel"]
    management = team.sandbox.honeycomb.management
    annotations = management.items("query_annotations", team.slug)
    annotations["new"] = annotations[panel["query_annotation_id"]] | {
        "id": "new", "name": "Mine", "description": "", "source": "board",
    }  # fmt: skip
    panel["query_annotation_id"] = "new"


def edited(path, name, field, value):
    """Returns a change by hand of one field."""

    def change(team):
        team.items(path)[name][field] = value

    return change


CHANGES = {
    "query": (edited_query, "query 'Queue time by queue': time_range 3600 instead of 604800"),
    "moved": (moved_panel, "query 'Retries': y_coordinate"),
    "removed": (removed_panel, "query 'Flaky steps' is missing"),
    "doubled": (doubled_panel, "a panel is there twice"),
    "text": (edited_text, "panel '# Buildkite': content"),
    "ui": (edited_in_the_ui, "query 'Slowest steps' is missing or was edited"),
    "board": (
        edited("boards", "Buildkite (ci)", "description", "Ours [bk_pipeline:ci]"),
        "board\tBuildkite (ci)\tdescription",
    ),
    "filters": (edited("boards", "Buildkite (ci)", "preset_filters", []), "preset_filters"),
    "query's name": (
        edited("query_annotations", "Retries", "name", "Again"),
        'query\tRetries\tname "Again" instead of "Retries"',
    ),
    "formula": (
        edited("derived_columns", "bk_pipeline.job_failed", "expression", "IF(true, 1)"),
        'calculated field\tbk_pipeline.job_failed\texpression "IF(true, 1)" instead of',
    ),
    "column's type": (
        edited("columns", "buildkite.build.run_ms", "type", "float"),
        'column\tbuildkite.build.run_ms\ttype "float" instead of "integer"',
    ),
    "column's text": (
        edited("columns", "buildkite.build.run_ms", "description", ""),
        "column\tbuildkite.build.run_ms\tdescription",
    ),
    "threshold": (
        edited("triggers", queries.TRIGGERS[0].name, "threshold", {"op": ">", "value": 1}),
        "trigger\tJobs wait long for agents\tthreshold",
    ),
    "trigger's query": (
        edited("triggers", queries.TRIGGERS[0].name, "query", {"calculations": [{"op": "COUNT"}]}),
        "trigger\tJobs wait long for agents\tquery",
    ),
    "target": (
        edited("slos", queries.SLO.name, "target_per_million", 1),
        f"SLO\t{queries.SLO.name}\ttarget_per_million 1 instead of 950000",
    ),
}


@pytest.mark.parametrize(("change", "shown"), CHANGES.values(), ids=CHANGES.keys())
def test_change_by_hand_is_shown_and_restored(team, change, shown):
    team.lines("apply", **ALERTS)
    before = [team.board, *(team.items(path) for path in ("columns", "triggers", "slos"))]
    before = msgspec.json.encode(significant(before))
    change(team)

    [line, counts] = team.lines("plan", **ALERTS)
    assert line.startswith("change\t")
    assert shown in line
    assert counts.startswith("1 to change, ")

    assert team.lines("apply", **ALERTS)[0] == line
    assert "\t" not in "".join(team.lines("plan", **ALERTS))
    after = [team.board, *(team.items(path) for path in ("columns", "triggers", "slos"))]
    assert msgspec.json.encode(significant(after)) == before


def significant(value):
    """The value without times of changes."""
    if isinstance(value, dict):
        return {k: significant(v) for k, v in sorted(value.items()) if k != "updated_at"}
    return [significant(one) for one in value] if isinstance(value, list) else value


def test_what_teams_add_stays(team):
    team.lines("apply", **ALERTS)
    board = team.board
    text = {"type": "text", "text_panel": {"content": "# Ours"}}
    board["panels"].insert(0, text | {"position": {"width": 4, "height": 3, "x_coordinate": 2}})
    board["preset_filters"].append({"column": "name", "alias": "Kind"})
    board["tags"] = [{"key": "team", "value": "blue"}]
    trigger = team.items("triggers")[queries.TRIGGERS[0].name]
    trigger |= {"recipients": [{"id": "r1"}], "disabled": True, "frequency": 1_800}
    trigger["threshold"]["exceeded_limit"] = 3
    team.board["panels"].remove(team.panel("Retries"))

    lines = team.lines("apply", **ALERTS)

    assert {line.split("\t")[1] for line in lines if "\t" in line} == {"board", "trigger"}
    kept = team.board["panels"][-1]
    assert kept["text_panel"] == {"content": "# Ours"}
    assert kept["position"]["x_coordinate"] == 2
    assert team.board["preset_filters"][-1] == {"column": "name", "alias": "Kind"}
    assert team.board["tags"] == [{"key": "team", "value": "blue"}]
    trigger = team.items("triggers")[queries.TRIGGERS[0].name]
    assert (trigger["recipients"], trigger["disabled"]) == ([{"id": "r1"}], True)
    assert trigger["frequency"] == queries.TRIGGERS[0].every_s
    assert trigger["threshold"]["exceeded_limit"] == 3
    assert "\t" not in "".join(team.lines("plan", **ALERTS))


def test_only_what_we_made_is_pruned(team, monkeypatch):
    team.lines("apply", **ALERTS)
    management = team.sandbox.honeycomb.management
    for path, slug in (
        ("boards", ""),
        ("triggers", "ci"),
        ("slos", "ci"),
        ("derived_columns", "ci"),
    ):
        items, key = management.items(path, slug), "alias" if path == "derived_columns" else "name"
        mine = next(iter(items.values()))
        # A copy that was renamed, and one of the same name that has not our tag.
        items[f"{path}1"] = mine | {"id": f"{path}1", key: "Copy", "description": "Mine"}
        if path != "derived_columns":
            items[f"{path}2"] = mine | {"id": f"{path}2", "description": "Mine"}
            items[f"{path}3"] = mine | {"id": f"{path}3", "name": "Renamed"}

    # The settings ask for no alerts any more.
    planned = team.lines("plan")
    assert [line for line in planned if line.startswith("prune\t")] == [
        *(f"prune\ttrigger\t{one.name}" for one in queries.TRIGGERS),
        f"prune\tSLO\t{queries.SLO.name}",
        "prune\tcalculated field\tbk_pipeline.agent_in_time",
    ]
    team.lines("apply")
    # A person's SLO has that indicator, so it stays.
    status, lines, errors = team.run("prune", "--yes")
    assert (status, lines[-1]) == (0, "3 items deleted.")
    assert "bk_pipeline.agent_in_time stays: something else uses it" in errors
    del management.items("slos", "ci")["slos1"]

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert team.run("prune", "--all")[0] == 1
    assert len(management.items("boards")) == 4
    assert len(team.lines("prune", "--all", "--yes")) > EVERY_QUERY
    assert {one["id"] for one in management.items("boards").values()} == {
        "boards1", "boards2", "boards3",
    }  # fmt: skip
    assert {one["id"] for one in management.items("triggers", "ci").values()} == {
        "triggers1", "triggers2", "triggers3",
    }  # fmt: skip
    assert team.items("columns")
    assert "Copy" in team.items("derived_columns")


def test_two_teams_do_not_meet(team_of):
    one, other = team_of("ci"), team_of("CI 2")
    other.slug = "ci-2"
    one.lines("apply", **ALERTS)
    other.lines("apply", **ALERTS)
    assert set(one.items("boards")) == {"Buildkite (ci)", "Buildkite (CI 2)"}
    assert "\t" not in "".join(one.lines("plan", **ALERTS) + other.lines("plan", **ALERTS))

    one.lines("prune", "--all", "--yes")

    assert set(one.items("boards")) == {"Buildkite (CI 2)"}
    assert set(other.items("triggers")) == {one.name for one in queries.TRIGGERS}
    assert "\t" not in "".join(other.lines("plan", **ALERTS))


def test_settings_decide_what_is_there(team):
    more = {
        "BK_PIPELINE_COSTS": "",
        "BK_PIPELINE_SPANS_CRITICAL_PATH": "0",
        "BK_PIPELINE_SPANS_DROP": "buildkite.agent.*",
    }
    _, _, errors = team.run("apply", **more)

    for name in ("Cost by pipeline", "Steps on the critical path", "Agents whose jobs fail"):
        assert f"'{name}' is left out: with these settings, " in errors
    absent = ("bk_pipeline.c", "bk_pipeline.slack", "buildkite.agent.")
    assert not [name for name in team.items("columns") if name.startswith(absent)]
    assert "\t" not in "".join(team.lines("plan", **more))

    assert "create\tquery\tCost by pipeline" in team.lines("plan")


def test_colors_of_marker_types_are_set(team, tmp_path):
    (tmp_path / "markers.toml").write_text(
        '[colors]\ndeploy = "#7b1fa2"\n'
        '[[rule]]\nid = "d"\ntype = "deploy"\nmessage = "x"\ndataset = "__all__"\n'
    )
    rules = {"BK_PIPELINE_MARKERS": "markers.toml"}
    assert "color\tmarker type\tdeploy #7b1fa2\t__all__" in team.lines("plan", **rules)
    assert "1 colors set" in team.lines("apply", **rules)[-2]
    assert team.sandbox.honeycomb.markers.colors == {("__all__", "deploy"): "#7b1fa2"}
    assert "\t" not in "".join(team.lines("plan", **rules))


def test_missing_key_is_reported_with_its_permissions(team):
    status, _, errors = team.run("plan", HONEYCOMB_CONFIGURATION_KEY="")
    assert status == 2
    assert "HONEYCOMB_CONFIGURATION_KEY is not set. Boards need" in errors
    assert "permissions Manage Public Boards and Manage Queries and Columns" in errors
