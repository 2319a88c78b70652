"""The markers of a day over several runs, with a running Honeycomb and a ledger."""

from __future__ import annotations

import pytest

from bk_pipeline.errors import RetryableError
from bk_pipeline.honeycomb.matching import columns_for
from bk_pipeline.honeycomb.placing import place, plan_day, prune
from bk_pipeline.ledger.store import Ledger
from bk_pipeline_tests.builders import make_build, make_job, make_retry, uid
from bk_pipeline_tests.honeycomb.conftest import DATASET

DAY = "2026-03-02"
FAILED = 'state = "failed"\nat = "start-to-finish"'


class Day:
    """Plans, places and prunes with one client and, by default, one ledger."""

    def __init__(self, client, ledger, spans):
        self.client = client
        self.ledger = ledger.markers
        self._spans = spans

    def plan(self, rules, *payloads, ledger=None, **options):
        """Return the plan of the day with these payloads."""
        return plan_day(
            DAY,
            [self._spans(*payloads).select(columns_for(rules.rules))],
            rules,
            client=self.client,
            ledger=ledger or self.ledger,
            **{"oldest": 0} | options,
        )

    def run(self, rules, *payloads, ledger=None, **options):
        planned = self.plan(rules, *payloads, ledger=ledger, **options)
        return place(
            planned,
            rules,
            client=self.client,
            ledger=ledger or self.ledger,
            progress=lambda _: None,
        )

    def prune(self, planned):
        return prune(planned, client=self.client, ledger=self.ledger)

    def placed(self):
        return self.ledger.placed(self.client.name)


@pytest.fixture
def day(client, ledger, spans):
    return Day(client, ledger, spans)


def failed_builds(count):
    return [
        make_build(
            [make_job(state="failed")],
            state="failed",
            id=uid(f"build {number}"),
            number=number,
            web_url=f"https://buildkite.com/acme/shop/builds/{number}",
        )
        for number in range(count)
    ]


def test_placed_marker_is_not_placed_again(day, rules_of, stored):
    rules, builds = rules_of(FAILED), failed_builds(3)

    assert day.run(rules, *builds).created == 3
    before = stored.markers
    again = day.run(rules, *builds)

    assert (again.created, again.changed, again.unchanged) == (0, 0, 3)
    assert stored.markers == before


def test_each_rule_has_its_own_marker_of_a_build(day, rules_of, stored):
    rules = rules_of(FAILED, f'{FAILED}\ndataset = "__all__"', FAILED)

    for _ in range(2):
        day.run(rules, *failed_builds(1))

    assert [one["dataset"] for one in stored.markers] == [DATASET, DATASET, "__all__"]


def test_no_request_is_made_if_nothing_changes(day, rules_of):
    rules = rules_of(FAILED)
    day.run(rules, *failed_builds(2))
    before = day.client.request_count

    day.run(rules, *failed_builds(2))
    day.run(rules, make_build(state="passed"))

    assert day.client.request_count == before


def test_marker_follows_a_resumed_build(day, rules_of, stored):
    rules = rules_of(f'{FAILED}\nmessage = "after {{buildkite.build.run_ms}}"')
    old = make_job(state="failed")
    day.run(rules, make_build([old], state="failed"))
    [before] = stored.markers
    resumed = make_build([old, make_retry(old, made_s=900, state="failed")], state="failed")

    done = day.run(rules, resumed)

    [after] = stored.markers
    assert (done.created, done.changed) == (0, 1)
    assert after["id"] == before["id"]
    assert after["end_time"] > before["end_time"]
    assert after["message"] != before["message"]
    assert (after["url"], after["type"]) == (before["url"], before["type"])
    assert day.run(rules, resumed).unchanged == 1


def test_edited_rule_changes_its_markers(day, rules_of, stored):
    day.run(rules_of(FAILED), *failed_builds(2))

    done = day.run(rules_of('state = "failed"\ntype = "red"'), *failed_builds(2))

    assert done.changed == 2
    assert [one["type"] for one in stored.markers] == ["red", "red"]
    assert all("end_time" not in one for one in stored.markers)


def test_markers_unknown_to_the_ledger_are_recovered(day, rules_of, stored, tmp_path, clock):
    rules = rules_of(FAILED, f'{FAILED}\nmessage = "another"')
    day.run(rules, *failed_builds(3))
    before = stored.markers

    with Ledger.open(tmp_path / "new.sqlite", clock=clock) as empty:
        done = day.run(rules, *failed_builds(3), ledger=empty.markers)
        again = day.run(rules, *failed_builds(3), ledger=empty.markers)

    assert (done.created, done.found_again, done.changed) == (0, 6, 0)
    assert again.unchanged == 6
    assert stored.markers == before


def test_changed_markers_are_recovered_by_type_url_and_start(
    day, rules_of, stored, tmp_path, clock
):
    old = make_job(state="failed")
    day.run(rules_of(FAILED), make_build([old], state="failed"))
    resumed = make_build([old, make_retry(old, made_s=900, state="failed")], state="failed")

    with Ledger.open(tmp_path / "new.sqlite", clock=clock) as empty:
        done = day.run(rules_of(FAILED), resumed, ledger=empty.markers)

    assert (done.created, done.changed) == (0, 1)
    assert len(stored.markers) == 1


def test_interrupted_run_is_continued(day, rules_of, stored, sandbox):
    rules = rules_of(FAILED)
    sandbox.faults.inject(
        "honeycomb", "status", status=503, count=1_000, after=4, path="/1/markers/*"
    )
    with pytest.raises(RetryableError, match="Gave up"):
        day.run(rules, *failed_builds(6))
    assert len(stored.markers) == 3
    sandbox.faults.clear()

    done = day.run(rules, *failed_builds(6))

    assert (done.created, done.unchanged) == (3, 3)
    assert len(stored.markers) == 6


def test_lost_response_makes_no_second_marker(day, rules_of, stored, sandbox):
    sandbox.faults.inject("honeycomb", "reset_after", after=2, path="/1/markers/*")

    done = day.run(rules_of(FAILED), *failed_builds(3))

    assert (done.created, done.found_again) == (3, 1)
    assert len(stored.markers) == 3


def test_only_our_markers_without_a_rule_are_deleted(day, rules_of, stored, marker):
    theirs, _ = day.client.create(DATASET, marker(), others=())
    day.run(rules_of(f'{FAILED}\nid = "old"', f'{FAILED}\nid = "kept"'), *failed_builds(2))
    rules = rules_of(f'{FAILED}\nid = "kept"')

    planned = day.plan(rules, *failed_builds(2))
    assert {one.rule for one in planned.plan.delete} == {"old"}
    assert day.prune(planned).deleted == 2

    assert len(stored.markers) == 3
    assert theirs in {one["id"] for one in stored.markers}
    assert {one.rule for one in day.placed()} == {"kept"}
    assert day.plan(rules, *failed_builds(2)).plan.delete == []


def test_marker_is_deleted_if_its_build_no_longer_matches(day, rules_of):
    rules = rules_of(FAILED)
    one, two = failed_builds(2)
    day.run(rules, one, two)

    planned = day.plan(rules, one | {"state": "passed"})

    [deleted] = planned.plan.delete
    assert deleted.trace_id.hex() == one["id"].replace("-", "")


def test_markers_are_deleted_if_the_dataset_of_their_rule_changes(day, rules_of):
    day.run(rules_of(FAILED), *failed_builds(1))

    planned = day.plan(rules_of(f'{FAILED}\ndataset = "__all__"'), *failed_builds(1))

    assert [one.dataset for one in planned.plan.delete] == [DATASET]
    assert [subject.dataset for subject, _ in planned.plan.create] == ["__all__"]


def test_build_markers_are_deleted_if_their_rule_becomes_one_on_jobs(day, rules_of):
    [build] = failed_builds(1)
    day.run(rules_of(FAILED), build)

    planned = day.plan(rules_of(f'{FAILED}\non = "job"'), build).plan

    assert (len(planned.delete), len(planned.create)) == (1, 1)


def test_marker_deleted_by_others_stays_deleted_until_restored(day, rules_of, stored):
    rules = rules_of(FAILED)
    day.run(rules, *failed_builds(2))
    day.client.delete(DATASET, stored.markers[0]["id"])

    assert (
        len(day.plan(rules, *failed_builds(2), list_markers=day.client.list_markers).plan.missing)
        == 1
    )
    assert day.run(rules, *failed_builds(2)).created == 0
    assert day.run(rules_of(f'{FAILED}\ntype = "x"'), *failed_builds(2)).missing == 1
    assert len(stored.markers) == 1
    assert (
        day.run(
            rules, *failed_builds(2), list_markers=day.client.list_markers, restore=True
        ).created
        == 1
    )
    assert len(stored.markers) == 2
    assert len(day.placed()) == 2


def test_record_of_a_marker_deleted_by_others_is_pruned(day, rules_of, stored):
    day.run(rules_of(FAILED), *failed_builds(1))
    day.client.delete(DATASET, stored.markers[0]["id"])

    done = day.prune(day.plan(rules_of()))

    assert (done.deleted, done.missing) == (0, 1)
    assert day.placed() == []


def test_too_old_markers_are_kept_but_not_placed(day, rules_of, stored):
    rules = rules_of(FAILED)
    one, two = failed_builds(2)
    day.run(rules, one)

    done = day.run(rules, one, two, oldest=2_000_000_000)

    assert (done.created, done.too_old, done.unchanged) == (0, 1, 1)
    assert day.plan(rules, one, two, oldest=2_000_000_000).plan.delete == []
    assert len(stored.markers) == 1


def test_colors_are_set_when_markers_are_placed(day, rules_of, stored):
    rules = rules_of(FAILED, colors='t = "#123456"\nunused = "#000000"')

    day.run(rules, *failed_builds(1))

    assert stored.colors == {(DATASET, "t"): "#123456"}
