"""Planning and making the board and what it is made of, with a running sandbox and its faults."""

from __future__ import annotations

import msgspec
import pytest

from bk_pipeline.errors import AccessDenied, FatalError, RequestRefused, TokenRefused
from bk_pipeline.honeycomb import queries, setup
from bk_pipeline.honeycomb.design import design
from bk_pipeline.honeycomb.resources import Kind, ResourceClient

DATASET = "New"
QUERIES = [one.name for one in queries.PANELS if isinstance(one, queries.Query)]


def unchanged(_, value):
    return str(value)


def wanted(*, shown=unchanged, left_out=(), alerts=True):
    return design(DATASET, left_out=left_out, shown=shown, triggers=alerts, slo=alerts)


@pytest.fixture
def stored(sandbox):
    """Returns the items of a kind in Honeycomb."""
    return lambda path: list(
        sandbox.honeycomb.management.items(path, "" if path == "boards" else "new").values()
    )


@pytest.fixture
def manager(connect):
    return connect(kind=ResourceClient)


def planned(client, goal):
    state = setup.read(client, goal)
    return state, setup.plan(state, goal, query_of=lambda id_: client.query("new", id_))


def apply(client, goal):
    """Apply, and return the actions, kinds and names."""
    state, plan = planned(client, goal)
    setup.apply(plan, state, goal, client=client, on_step=lambda _: None)
    return [(step.action, step.kind.label, step.name) for step in plan.steps]


def assert_complete(client, goal, stored):
    _, plan = planned(client, goal)
    assert (plan.steps, plan.obsolete) == ([], [])
    assert sorted(one["name"] for one in stored("query_annotations")) == sorted(QUERIES)
    for path, count in (("boards", 1), ("triggers", 2), ("slos", 1), ("derived_columns", 4)):
        assert len(stored(path)) == count
    names = [one["key_name"] for one in stored("columns")]
    assert len(names) == len(set(names))


def test_the_page_of_the_board_is_found_once_it_is_made(manager, stored):
    goal = wanted()
    assert setup.board_url(manager, goal) is None
    apply(manager, goal)
    [board] = stored("boards")
    assert setup.board_url(manager, goal) == board["links"]["board_url"]
    assert (
        setup.board_url(
            manager, design("other", left_out=(), shown=unchanged, triggers=False, slo=False)
        )
        is None
    )


def test_interrupted_apply_is_completed_by_the_next_one(manager, sandbox, stored):
    goal, interruptions = wanted(), 0
    # Reading takes six requests, so each attempt makes one change or two.
    while interruptions < 200:
        sandbox.faults.inject("honeycomb", "status", status=400, after=8, path="/1/*")
        try:
            apply(manager, goal)
            break
        except RequestRefused:
            interruptions += 1
    sandbox.faults.clear()

    assert 20 < interruptions < 200
    assert apply(manager, goal) == []
    assert_complete(manager, goal, stored)


@pytest.mark.parametrize("fault", ["reset_after", "cut_json"])
def test_lost_responses_duplicate_nothing(manager, sandbox, stored, fault):
    for number, path in enumerate(
        ("columns", "derived_columns", "query_annotations", "slos", "triggers", "boards")
    ):
        # The first request of the first kind is its list.
        sandbox.faults.inject("honeycomb", fault, path=f"/1/{path}*", after=int(number == 0))
    goal = wanted()
    apply(manager, goal)
    assert_complete(manager, goal, stored)


def test_column_that_an_event_creates_meanwhile_is_found(manager, sandbox):
    goal = wanted()
    manager.create(Kind.DATASET, "new", {"name": DATASET})
    state, plan = planned(manager, goal)
    sandbox.honeycomb._datasets["new"].types["error.type"] = "string"

    setup.apply(plan, state, goal, client=manager, on_step=lambda _: None)

    assert apply(manager, goal) == [("change", "column", "error.type")]
    assert apply(manager, goal) == []


def test_rate_limit_is_waited_for(sandbox, connect, clock, stored):
    limit = sandbox.honeycomb.call_limit
    limit.enforced, limit.limit = True, 12
    goal, client = wanted(), connect(kind=ResourceClient)
    apply(client, goal)
    assert len(clock.slept) >= client.request_count // 12 - 1
    assert_complete(client, goal, stored)


@pytest.mark.parametrize(
    ("granted", "alerts", "missing"),
    [
        ((), False, "permissions Manage Public Boards and Manage Queries and Columns"),
        (("columns",), False, "permission Manage Public Boards"),
        (("boards",), False, "permission Manage Queries and Columns"),
        (("boards", "columns"), True, "permissions Manage Triggers and Manage SLOs"),
        (("boards", "columns", "slos"), True, "permission Manage Triggers"),
    ],
)
def test_missing_permission_is_named(sandbox, connect, granted, alerts, missing):
    key = sandbox.add_honeycomb_key("configuration", management=granted)
    with pytest.raises(AccessDenied, match=f"lacks the {missing}. Boards need a configuration key"):
        planned(connect(key, kind=ResourceClient), wanted(alerts=alerts))


def test_dataset_is_needed_or_the_permission_to_create_it(sandbox, connect):
    key = sandbox.add_honeycomb_key("configuration", create_datasets=False)
    with pytest.raises(AccessDenied, match="lacks the permission Create Datasets"):
        planned(connect(key, kind=ResourceClient), wanted())


def test_ingest_key_and_unknown_key_are_refused(sandbox, connect):
    ingest = connect(sandbox.add_honeycomb_key("ingest"), kind=ResourceClient)
    with pytest.raises(AccessDenied, match=r"is an ingest key.*Manage Public Boards and Manage Q"):
        planned(ingest, wanted())
    with pytest.raises(TokenRefused, match=r"HONEYCOMB_CONFIGURATION_KEY.*401.*eu1"):
        planned(connect("unknown", kind=ResourceClient), wanted())


def test_classic_key_has_a_board_as_well(sandbox, connect, stored):
    client = connect(sandbox.add_honeycomb_key("classic_configuration"), kind=ResourceClient)
    apply(client, wanted())
    assert_complete(client, wanted(), stored)


def test_columns_of_events_are_described_unless_others_have(manager, sandbox, stored):
    apply(manager, wanted(alerts=False))
    types = sandbox.honeycomb._datasets["new"].types
    types |= {"buildkite.build.message": "string", "buildkite.job.exit_status": "integer"}
    types |= {"buildkite.job.parallel.total": "string", "mine": "string"}
    types |= {"buildkite.build.jobs.passed": "integer", "status_code": "integer"}
    manager.list_items(Kind.COLUMN, "new")
    columns = {one["key_name"]: one for one in stored("columns")}
    columns["buildkite.pipeline.slug"] |= {"description": "Our pipelines", "type": "integer"}
    columns["buildkite.build.message"]["hidden"] = True

    assert apply(manager, wanted(alerts=False)) == [
        ("change", "column", "buildkite.build.jobs.passed"),
        ("change", "column", "buildkite.build.message"),
        ("change", "column", "buildkite.job.parallel.total"),
        ("change", "column", "status_code"),
    ]
    columns = {one["key_name"]: one for one in stored("columns")}
    assert columns["buildkite.build.message"]["description"].startswith("The build's message")
    assert columns["buildkite.build.message"]["hidden"]
    assert columns["buildkite.job.parallel.total"]["type"] == "integer"
    assert columns["buildkite.pipeline.slug"]["description"] == "Our pipelines"
    assert columns["mine"]["description"] == ""
    assert columns["buildkite.build.jobs.passed"]["description"].startswith("The number of jobs")
    assert columns["buildkite.build.jobs.passed"]["type"] == "integer"


def test_columns_that_are_not_sent_are_not_queried(manager, stored):
    absent = {"bk_pipeline.cost", "bk_pipeline.critical_path"}

    def dropped(name, value):
        return None if name.startswith("buildkite.agent.") else str(value)

    goal = wanted(left_out=absent, shown=dropped)
    apply(manager, goal)

    assert set(goal.left_out) == {
        *("Steps on the critical path", "Cost by pipeline", "Queue time by queue"),
        *("Jobs at once by queue", "Agents whose jobs fail", "Jobs wait long for agents"),
    }
    names = {one["key_name"] for one in stored("columns")}
    assert not {name for name in names if name.startswith("buildkite.agent.")} | (names & absent)
    assert "bk_pipeline.job_failed" not in {one["alias"] for one in stored("derived_columns")}
    assert len(stored("triggers")) == 1


def test_section_without_queries_has_no_text(stored, manager):
    def dropped(name, value):
        kept = ("buildkite.build.", "buildkite.pipeline.")
        return str(value) if name.startswith(kept) else None

    apply(manager, wanted(shown=dropped, alerts=False))

    texts = [
        one["text_panel"]["content"] for one in stored("boards")[0]["panels"] if "text_panel" in one
    ]
    assert [text.partition("\n")[0] for text in texts] == ["# Buildkite", "## Agents and cost"]


def test_plan_without_alerts_needs_no_answer_about_them(manager, sandbox):
    apply(manager, wanted(alerts=False))
    for path in ("triggers", "slos"):
        sandbox.faults.inject("honeycomb", "status", status=403, path=f"/1/{path}*")
    _, plan = planned(manager, wanted(alerts=False))
    assert plan.steps == []
    sandbox.faults.inject("honeycomb", "status", status=403, path="/1/slos*")
    with pytest.raises(AccessDenied, match="403"):
        planned(manager, wanted())


def test_values_that_are_sent_hashed_are_hashed_in_filters(manager, stored):
    def hashed(name, value):
        return f"<{value}>" if name == "buildkite.build.state" else str(value)

    goal = wanted(shown=hashed)
    apply(manager, goal)

    # A formula cannot compare it.
    assert goal.left_out == {"Failure rate by pipeline": "buildkite.build.state"}
    [trigger] = [one for one in stored("triggers") if one["name"] == "Main branch fails"]
    assert {"column": "buildkite.build.state", "op": "=", "value": "<failed>"} in trigger["query"][
        "filters"
    ]


def test_query_is_replaced_if_its_formula_changes(manager, stored, monkeypatch):
    apply(manager, wanted())
    before = {one["name"]: one["query_id"] for one in stored("query_annotations")}
    other = queries.JOB_FAILED
    changed = queries.Calculated(other.alias, "IF(EQUALS($error, true), 1, 0)", other.description)
    fields = tuple(changed if one is other else one for one in queries.CALCULATED)
    monkeypatch.setattr(queries, "CALCULATED", fields)

    steps = apply(manager, wanted())

    assert steps == [
        ("change", "calculated field", "bk_pipeline.job_failed"),
        ("create", "query", "Agents whose jobs fail"),
        ("change", "board", "Buildkite (New)"),
        ("delete", "query", "Agents whose jobs fail"),
    ]
    after = {one["name"]: one["query_id"] for one in stored("query_annotations")}
    assert {name for name in QUERIES if before[name] != after[name]} == {"Agents whose jobs fail"}
    assert_complete(manager, wanted(), stored)


def test_copy_of_the_board_keeps_its_queries(manager, sandbox, stored, monkeypatch):
    apply(manager, wanted())
    [board] = stored("boards")
    management = sandbox.honeycomb.management
    copy = msgspec.json.decode(msgspec.json.encode(board)) | {
        "id": "copy",
        "name": "Copy of Buildkite",
    }
    annotations = management.items("query_annotations", "new")
    for panel in copy["panels"]:
        if panel["type"] == "query":
            old = annotations[panel["query_panel"]["query_annotation_id"]]
            annotations[f"{old['id']}copy"] = old | {"id": f"{old['id']}copy"}
            panel["query_panel"]["query_annotation_id"] = f"{old['id']}copy"
    management.items("boards")["copy"] = copy

    assert apply(manager, wanted()) == []
    state = setup.read(manager, wanted())
    assert setup.prune(setup.everything(state), wanted(), client=manager) != []
    assert [one["id"] for one in stored("boards")] == ["copy"]
    assert len(stored("query_annotations")) == len(QUERIES)


def test_what_honeycomb_adds_is_no_drift(manager, stored):
    apply(manager, wanted())
    for trigger in stored("triggers"):
        trigger["query"] |= {"limit": 100, "filter_combination": "AND", "havings": []}
        trigger["query"]["calculations"][0].setdefault("column", None)
    settings = dict.fromkeys(("hide_compare", "hide_markers", "utc_xaxis"), False)
    for panel in stored("boards")[0]["panels"]:
        if panel["type"] == "query":
            shown = panel["query_panel"]["visualization_settings"]
            shown |= settings
            shown["charts"][0] |= {"log_scale": False, "omit_missing_values": False}
        panel["position"].setdefault("z", 0)
    stored("slos")[0] |= {"reset_at": None, "tags": []}
    assert_complete(manager, wanted(), stored)


def test_trigger_by_a_query_id_is_compared(manager, sandbox, stored):
    apply(manager, wanted())
    trigger = stored("triggers")[0]
    sandbox.honeycomb.management.items("queries", "new")["q1"] = trigger.pop("query")
    trigger["query_id"] = "q1"
    assert_complete(manager, wanted(), stored)


def test_calculated_field_of_others_is_used_or_a_conflict(manager, sandbox, stored):
    apply(manager, wanted())
    field = next(
        one for one in stored("derived_columns") if one["alias"] == "bk_pipeline.job_failed"
    )
    field["description"] = "Ours"
    _, plan = planned(manager, wanted())
    assert plan.steps == []
    field["expression"] = "IF(true, 2)"
    with pytest.raises(FatalError, match=r"bk_pipeline\.job_failed that bk-pipeline did not make"):
        planned(manager, wanted())


def test_a_second_board_is_a_duplicate_to_prune(manager, sandbox, stored):
    apply(manager, wanted())
    [board] = stored("boards")
    sandbox.honeycomb.management.items("boards")["second"] = board | {"id": "second"}
    _, plan = planned(manager, wanted())
    assert (plan.steps, [one.item_id for one in plan.obsolete]) == ([], ["second"])
