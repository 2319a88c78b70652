"""Deployments found by rules, and DORA's four keys, on builds counted by hand."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from bk_pipeline.analysis.columns import DEPLOYMENTS
from bk_pipeline.analysis.deployment_rules import load_deployment_rules
from bk_pipeline.analysis.deployments import (
    Deployment,
    four_keys,
    parsed_time,
    table_of_deployments,
    with_history,
)
from bk_pipeline.errors import ConfigError
from bk_pipeline.pipeline import find_deployments, record_deployments
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import StatsStore
from bk_pipeline_tests.analysis.test_flaky import FIRST, Store, build, job, only
from bk_pipeline_tests.builders import (
    BEGAN,
    DAY_S,
    HOUR_S,
    at,
    make_block,
    make_job,
    make_pipeline,
    make_retry,
    make_trigger,
    uid,
)

RULES = """
[[rule]]
id = "rollback"
job_name = "undo*"
environment = "production"
rollback = true

[[rule]]
id = "deploy"
step_key = "deploy*"
environment = "production"
committed_at = "{buildkite.build.meta_data.committed}"
"""
UTC_ZONE = ZoneInfo("UTC")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "data")


@pytest.fixture
def rules_of(tmp_path):
    def load(text=RULES):
        path = tmp_path / "deployments.toml"
        path.write_text(text)
        return load_deployment_rules(path)

    return load


@pytest.fixture
def find(store, rules_of):
    def found(first=FIRST, last=FIRST + timedelta(days=60), *, rules=RULES):
        return find_deployments(first, last, spans=store.spans, rules=rules_of(rules)).deployments

    return found


def deploys(name, *jobs, after_s=0, **fields):
    """A build, `after_s` after the first, whose jobs are those of `(name, state)`."""
    made = [
        make_job(one, id=uid(f"job {name} {one}"), state=state, runnable_s=after_s + 1)
        for one, state in jobs
    ]
    return build(name, made, created_at=at(after_s), **{"commit": name, **fields})


def results(found):
    return [(one.kind, one.outcome) for one in found]


def test_job_that_matches_is_a_deployment(store, find):
    store.add(FIRST, [deploys("one", ("test", "passed"), ("deploy", "passed"))])
    one = only(find())
    assert (one.service, one.environment, one.rule) == ("shop", "production", "deploy")
    assert (one.kind, one.outcome, one.commit) == ("deployment", "succeeded", "one")
    assert (one.started_at, one.finished_at) == (
        BEGAN + timedelta(seconds=3),
        BEGAN + timedelta(seconds=13),
    )
    assert one.url.endswith(uid("job one deploy"))
    assert one.build_id == uid("build one")


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"state": "passed"}, "succeeded"),
        ({"state": "failed"}, "failed"),
        ({"state": "timed_out"}, "failed"),
        ({"state": "failed", "soft_failed": True}, "failed"),
        ({"state": "failed", "exit_status": -1}, "failed"),
        ({"state": "canceled"}, None),
        ({"state": "expired", "run_s": None, "expired_at": at(60)}, None),
    ],
)
def test_outcome_of_a_job(store, find, fields, outcome):
    store.add(FIRST, [build("one", [job("deploy", "one", **fields)])])
    assert [one.outcome for one in find()] == ([outcome] if outcome else [])


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"state": "passed"}, "succeeded"),
        ({"state": "failed"}, "failed"),
        ({"state": "canceled"}, None),
        ({"state": "passed", "blocked": True}, None),
    ],
)
def test_outcome_of_a_build(store, find, fields, outcome):
    jobs = [job("test", "one")]
    if fields.get("blocked"):
        jobs.append(make_block())
    store.add(FIRST, [build("one", jobs, **fields)])
    rules = '[[rule]]\nid = "all"\non = "build"\nenvironment = "production"\n'
    found = find(rules=rules)
    assert [one.outcome for one in found] == ([outcome] if outcome else [])
    assert all(one.url == "https://buildkite.com/acme/shop/builds/7" for one in found)


def test_trigger_job_can_be_a_deployment_and_a_block_step_cannot(store, find):
    store.add(FIRST, [build("one", [make_trigger("deploy"), make_block("undo?", unblocked_s=9)])])
    assert results(find()) == [("deployment", "succeeded")]


def test_jobs_that_deploy_together_are_one_and_a_retry_is_another(store, find):
    regions = [
        job(f"deploy {n}", "one", step_key="deploy", matrix={"region": n}, state=state)
        for n, state in (("eu", "passed"), ("us", "failed"), ("ap", "passed"))
    ]
    again = make_retry(regions[1], made_s=600)
    store.add(FIRST, [build("one", [*regions, again])])
    failed, succeeded = find()
    assert (failed.outcome, failed.change_failed, failed.lead_time_s) == ("failed", True, None)
    assert (succeeded.outcome, succeeded.change_failed) == ("succeeded", False)
    assert succeeded.restore_s == pytest.approx(599.08 + 0, abs=1)


def test_round_of_which_a_part_was_canceled_has_no_outcome(store, find):
    parts = [job("deploy a", "one"), job("deploy b", "one", state="canceled")]
    store.add(FIRST, [build("one", parts)])
    assert find() == []


def test_first_rule_that_matches_counts(store, find):
    jobs = [job("undo deploy", "one", step_key="deploy")]
    store.add(FIRST, [build("one", jobs)])
    assert results(find()) == [("rollback", "succeeded")]


def test_templates_have_values_of_the_job_and_of_its_build(store, find):
    rules = (
        '[[rule]]\nid = "d"\nstep_key = "deploy"\n'
        'environment = "{buildkite.build.meta_data.env}"\n'
        'service = "{buildkite.build.triggered_from.build_pipeline_slug}"\n'
    )
    source = {"build_id": uid("x"), "build_number": 1, "build_pipeline_slug": "web"}
    store.add(
        FIRST,
        [
            deploys("a", ("deploy", "passed"), meta_data={"env": "eu"}, triggered_from=source),
            deploys("b", ("deploy", "passed")),
        ],
    )
    # Without the triggering build, the pipeline is the service.
    found = find(rules=rules)
    assert {(one.service, one.environment) for one in found} == {("web", "eu"), ("shop", "-")}


def test_newest_revision_of_a_build_counts(store, find):
    blocked = deploys("one", ("test", "passed"), state="passed", blocked=True)
    store.add(FIRST, [blocked])
    store.add(FIRST, [deploys("one", ("test", "passed"), ("deploy", "passed"))])
    store.add(FIRST, [deploys("one", ("test", "passed"), ("deploy", "failed"))])
    assert results(find()) == [("deployment", "failed")]


class TestLeadTime:
    def lead(self, found):
        one = only([one for one in found if one.kind == "deployment"])
        return round(one.lead_time_s), one.lead_time_from

    def test_of_a_build_alone_is_from_its_creation(self, store, find):
        store.add(FIRST, [deploys("one", ("deploy", "passed"), after_s=100)])
        assert self.lead(find()) == (13, "build")

    def test_is_from_the_earliest_build_of_the_commit_in_the_repository(self, store, find):
        day = FIRST + timedelta(days=3)
        other = make_pipeline("other", repository="git@github.com:acme/shop.git")
        store.add(FIRST, [deploys("ci", ("test", "passed"), commit="c", pipeline=other)])
        elsewhere = make_pipeline("elsewhere")
        store.add(
            FIRST + timedelta(days=1),
            [deploys("x", ("test", "passed"), commit="d", pipeline=elsewhere, after_s=DAY_S)],
        )
        deploy = deploys("cd", ("deploy", "passed"), commit="c", after_s=3 * DAY_S)
        store.add(day, [deploy])
        assert self.lead(find()) == (3 * DAY_S + 13, "first_build")
        # Also if only the day of the deployment is asked for.
        assert self.lead(find(day, day)) == (3 * DAY_S + 13, "first_build")

    @pytest.mark.parametrize("commit", ["HEAD", "", None])
    def test_builds_of_no_known_commit_have_none_in_common(self, store, find, commit):
        store.add(FIRST, [deploys("ci", ("test", "passed"), commit=commit)])
        store.add(
            FIRST + timedelta(days=1),
            [deploys("cd", ("deploy", "passed"), commit=commit, after_s=DAY_S)],
        )
        assert self.lead(find()) == (13, "build")

    def test_follows_the_builds_that_triggered_the_one_that_deploys(self, store, find):
        def source(name):
            return {"build_id": uid(f"build {name}"), "build_number": 7, "build_pipeline_slug": "s"}

        store.add(
            FIRST,
            [
                deploys("web", ("test", "passed"), pipeline=make_pipeline("web")),
                deploys("mid", triggered_from=source("web"), after_s=100, commit="HEAD"),
                deploys(
                    "cd",
                    ("deploy", "passed"),
                    triggered_from=source("mid"),
                    after_s=200,
                    commit="HEAD",
                ),
            ],
        )
        found = find()
        assert self.lead(found) == (213, "triggering_build")
        assert (only(found).commit, only(found).repository) == (
            "web",
            "git@github.com:acme/web.git",
        )

    def test_builds_that_trigger_each_other_end_somewhere(self, store, find):
        def source(name):
            return {"build_id": uid(f"build {name}"), "build_number": 7, "build_pipeline_slug": "s"}

        store.add(
            FIRST,
            [
                deploys("a", ("deploy", "passed"), triggered_from=source("b")),
                deploys("b", triggered_from=source("a")),
            ],
        )
        assert self.lead(find())[0] == 13

    @pytest.mark.parametrize(
        "text", ["1772438400", "2026-03-02T08:00:00Z", "2026-03-02T09:00:00+01:00"]
    )
    def test_is_from_the_commit_if_the_rule_finds_its_time(self, store, find, text):
        meta = {"committed": text}
        store.add(FIRST, [deploys("one", ("deploy", "passed"), meta_data=meta)])
        assert self.lead(find()) == (HOUR_S + 13, "commit")

    @pytest.mark.parametrize("text", ["-", "", "yesterday", "9" * 30, "2027-01-01T00:00:00Z"])
    def test_time_that_cannot_be_that_of_the_commit_is_ignored(self, store, find, text):
        meta = {"committed": text}
        store.add(FIRST, [deploys("one", ("deploy", "passed"), meta_data=meta)])
        assert self.lead(find()) == (13, "build")

    def test_is_that_of_the_first_successful_deployment_of_a_change(self, store, find):
        payloads = [
            deploys("1", ("deploy", "failed"), commit="c"),
            deploys("2", ("deploy", "passed"), commit="c", after_s=100),
            deploys("3", ("deploy", "passed"), commit="c", after_s=200),
            deploys("4", ("undo", "passed"), commit="b", after_s=300),
        ]
        store.add(FIRST, payloads)
        leads = [one.lead_time_s and round(one.lead_time_s) for one in find()]
        assert leads == [None, 113, None, None]


class TestFailures:
    """The history of one service: deployments `d` and rollbacks `r`, failed ones in capitals."""

    def history(self, text):
        made = []
        for n, letter in enumerate(text):
            end = BEGAN + timedelta(hours=n)
            made.append(
                deployment(
                    kind="rollback" if letter in "rR" else "deployment",
                    outcome="failed" if letter.isupper() else "succeeded",
                    started_at=end - timedelta(minutes=1),
                    finished_at=end,
                    commit=f"commit {n}",
                )
            )
        random.Random(1).shuffle(made)
        return with_history(made, {})

    @pytest.mark.parametrize(
        ("history", "failed", "restored"),
        [
            ("ddd", "", {}),
            ("dDd", "1", {2: 1}),
            ("DDDd", "012", {3: 3}),
            ("ddr", "2", {2: 1}),
            ("dDr", "1", {2: 1}),
            ("ddRr", "2", {3: 2}),
            ("drr", "1", {1: 1}),
            ("rd", "", {}),
            ("Rd", "", {1: 1}),
            ("dD", "1", {}),
        ],
    )
    def test_change_failures_and_restores(self, history, failed, restored):
        rows = self.history(history)
        assert "".join(str(n) for n, one in enumerate(rows) if one.change_failed) == failed
        hours = {n: one.restore_s / HOUR_S for n, one in enumerate(rows) if one.restore_s}
        assert hours == restored

    def test_services_and_environments_are_separate(self):
        rows = with_history(
            [
                deployment(service="a", outcome="failed"),
                deployment(service="b", finished_at=BEGAN + timedelta(hours=1)),
                deployment(service="a", environment="eu", finished_at=BEGAN + timedelta(hours=2)),
            ],
            {},
        )
        assert [one.restore_s for one in rows] == [None, None, None]


def deployment(**fields):
    values = {
        "day": str(FIRST),
        "environment": "production",
        "service": "shop",
        "rule": "deploy",
        "kind": "deployment",
        "outcome": "succeeded",
        "started_at": BEGAN,
        "finished_at": BEGAN,
    }
    nulls = dict.fromkeys(
        ("pipeline", "build_number", "build_id", "url", "branch", "repository", "commit", "cost")
    )
    return Deployment(**{**values, **nulls, "currency": None, **fields})


def keys_of(rows, *, days=(FIRST, FIRST + timedelta(days=9)), by=None, zone=UTC_ZONE):
    return four_keys(rows, days, by=by, zone=zone)


def test_four_keys():
    rows = with_history(
        [
            deployment(finished_at=BEGAN + timedelta(hours=n), outcome=outcome, kind=kind)
            for n, (kind, outcome) in enumerate(
                [
                    ("deployment", "succeeded"),
                    ("deployment", "failed"),
                    ("deployment", "succeeded"),
                    ("rollback", "succeeded"),
                    ("deployment", "succeeded"),
                ]
            )
        ],
        {},
    )
    found = only(keys_of(rows))
    assert (found["deployments"], found["succeeded"], found["rollbacks"]) == (4, 3, 1)
    assert (found["days"], found["deployments_per_day"]) == (10, 0.3)
    assert (found["change_failures"], found["change_failure_rate"]) == (2, 0.5)
    assert (found["restores"], found["restore_p50_s"]) == (2, HOUR_S)
    # From the start of each build: 0, 2 and 4 hours.
    assert (found["lead_time_p50_s"], found["lead_time_from"]) == (2 * HOUR_S, "build 3")


def test_keys_of_rollbacks_alone_are_unknown():
    found = only(keys_of([deployment(kind="rollback")]))
    assert (found["change_failure_rate"], found["lead_time_p50_s"]) == (None, None)
    assert keys_of([]) == []


def test_periods_are_of_the_time_zone_and_partly_covered_ones_are_shorter():
    late = datetime(2026, 3, 8, 23, 30, tzinfo=UTC)
    rows = [deployment(finished_at=late)]
    days = (FIRST, date(2026, 3, 10))
    assert only(keys_of(rows, by="week", days=days))["period"] == date(2026, 3, 2)
    berlin = only(keys_of(rows, by="week", days=days, zone=ZoneInfo("Europe/Berlin")))
    assert (berlin["period"], berlin["days"]) == (date(2026, 3, 9), 2)
    month = only(keys_of(rows, by="month", days=days))
    assert (month["period"], month["days"]) == (date(2026, 3, 1), 9)
    assert only(keys_of(rows, by="day", days=days))["days"] == 1


@pytest.mark.parametrize(("currencies", "cost"), [("EUR EUR", 3.0), ("EUR USD", None)])
def test_costs_of_several_currencies_have_no_sum(currencies, cost):
    rows = [
        deployment(cost=amount, currency=one)
        for amount, one in zip((1.0, 2.0), currencies.split(), strict=True)
    ]
    assert only(keys_of(rows))["cost"] == cost


def test_a_day_is_stored_with_what_the_days_before_say(store, rules_of, tmp_path):
    store.add(FIRST, [deploys("a", ("deploy", "failed"))])
    day = FIRST + timedelta(days=1)
    store.add(day, [deploys("b", ("deploy", "passed"), after_s=DAY_S)])
    stats = StatsStore(Folder(str(tmp_path / "data")))
    found = record_deployments(str(day), spans=store.spans, stats=stats, rules=rules_of())
    stored = stats.read("deployments", str(day))
    assert stored.schema.equals(DEPLOYMENTS.schema)
    assert stored.equals(table_of_deployments(found.deployments))
    assert stored["restore_s"].to_pylist() == [DAY_S]
    assert stored["day"].to_pylist() == [str(day)]


def test_a_day_without_deployments_has_an_empty_table(store, rules_of, tmp_path):
    store.add(FIRST, [deploys("a", ("test", "passed"))])
    stats = StatsStore(Folder(str(tmp_path / "data")))
    for day in (str(FIRST), "2026-04-01"):
        record_deployments(day, spans=store.spans, stats=stats, rules=rules_of())
        assert stats.read("deployments", day).num_rows == 0


def test_nulls_everywhere_are_no_error(store, find):
    dropped = Privacy(drop=("buildkite.pipeline.*", "buildkite.build.*"))
    store.add(FIRST, [deploys("a", ("deploy", "passed"))], change=dropped.apply)
    one = only(find())
    assert (one.service, one.commit, one.build_id) == ("-", None, None)
    assert one.lead_time_from == "build"


def test_parsed_time():
    assert parsed_time("1772438400") == datetime(2026, 3, 2, 8, tzinfo=UTC)
    assert parsed_time("2026-03-02T08:00:00") == datetime(2026, 3, 2, 8, tzinfo=UTC)
    assert parsed_time("²") is None


class TestRules:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "there is no [[rule]]"),
            ('[[rule]]\nid = "a"\n', 'rule "a", environment: is missing'),
            (
                '[[rule]]\nid = "a"\nenvironment = "p"\non = "build"\nstep_key = "x"\n',
                'set on = "job" too',
            ),
            ('[[rule]]\nid = "a"\nenvironment = "{buildkite.job.labl}"\n', "did you mean"),
            ('[[rule]]\nid = "a"\nenvironment = "{x"\n', "unbalanced"),
            (
                '[[rule]]\nid = "a"\non = "build"\nenvironment = "{buildkite.job.label}"\n',
                "exists on job spans only",
            ),
            ('[[rule]]\nid = "a"\nenvironment = "p"\nrolback = true\n', "did you mean rollback?"),
            ('[[rule]]\nid = "a"\nenvironment = "p"\n' * 2, "same id"),
        ],
    )
    def test_error_names_the_rule(self, rules_of, text, message):
        with pytest.raises(ConfigError) as caught:
            rules_of(text)
        assert message in str(caught.value)
        assert "line " in str(caught.value)

    def test_a_missing_file_names_the_setting(self, tmp_path):
        with pytest.raises(ConfigError, match="BK_PIPELINE_DEPLOYMENTS"):
            load_deployment_rules(tmp_path / "none.toml")
