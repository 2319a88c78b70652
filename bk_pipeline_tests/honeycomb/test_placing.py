"""A day's markers, with a served Honeycomb and a ledger, run after run."""

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
    """Plans, places and prunes, with one client and (unless another is given) one ledger."""

    def __init__(self, client, ledger, spans):
        self.client = client
        self.memory = ledger.markers
        self._spans = spans

    def plan(self, rules, *payloads, memory=None, **options):
        """The plan of the day that has these payloads."""
        return plan_day(
            DAY,
            [self._spans(*payloads).select(columns_for(rules.rules))],
            rules,
            client=self.client,
            memory=memory or self.memory,
            **{"oldest": 0} | options,
        )

    def run(self, rules, *payloads, memory=None, **options):
        planned = self.plan(rules, *payloads, memory=memory, **options)
        return place(
            planned,
            rules,
            client=self.client,
            memory=memory or self.memory,
            progress=lambda _: None,
        )

    def prune(self, planned):
        return prune(planned, client=self.client, memory=self.memory)

    def placed(self):
        return self.memory.placed(self.client.name)


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


def test_what_is_placed_once_is_not_placed_again(day, rules_of, held):
    rules, builds = rules_of(FAILED), failed_builds(3)

    assert day.run(rules, *builds).created == 3
    before = held.markers
    again = day.run(rules, *builds)

    assert (again.created, again.changed, again.unchanged) == (0, 0, 3)
    assert held.markers == before


def test_two_rules_have_a_marker_each_of_one_build(day, rules_of, held):
    rules = rules_of(FAILED, f'{FAILED}\ndataset = "__all__"', FAILED)

    for _ in range(2):
        day.run(rules, *failed_builds(1))

    assert [one["dataset"] for one in held.markers] == [DATASET, DATASET, "__all__"]


def test_nothing_is_asked_of_honeycomb_where_nothing_is_to_be_done(day, rules_of):
    rules = rules_of(FAILED)
    day.run(rules, *failed_builds(2))
    before = day.client.request_count

    day.run(rules, *failed_builds(2))
    day.run(rules, make_build(state="passed"))

    assert day.client.request_count == before


def test_a_marker_follows_a_build_that_resumed(day, rules_of, held):
    rules = rules_of(f'{FAILED}\nmessage = "after {{buildkite.build.run_ms}}"')
    old = make_job(state="failed")
    day.run(rules, make_build([old], state="failed"))
    [before] = held.markers
    resumed = make_build([old, make_retry(old, made_s=900, state="failed")], state="failed")

    done = day.run(rules, resumed)

    [after] = held.markers
    assert (done.created, done.changed) == (0, 1)
    assert after["id"] == before["id"]
    assert after["end_time"] > before["end_time"]
    assert after["message"] != before["message"]
    assert (after["url"], after["type"]) == (before["url"], before["type"])
    assert day.run(rules, resumed).unchanged == 1


def test_an_edited_rule_changes_its_markers(day, rules_of, held):
    day.run(rules_of(FAILED), *failed_builds(2))

    done = day.run(rules_of('state = "failed"\ntype = "red"'), *failed_builds(2))

    assert done.changed == 2
    assert [one["type"] for one in held.markers] == ["red", "red"]
    assert all("end_time" not in one for one in held.markers)


def test_what_the_ledger_lost_is_found_again(day, rules_of, held, tmp_path, clock):
    rules = rules_of(FAILED, f'{FAILED}\nmessage = "another"')
    day.run(rules, *failed_builds(3))
    before = held.markers

    with Ledger.open(tmp_path / "new.sqlite", clock=clock) as empty:
        done = day.run(rules, *failed_builds(3), memory=empty.markers)
        again = day.run(rules, *failed_builds(3), memory=empty.markers)

    assert (done.created, done.found_again, done.changed) == (0, 6, 0)
    assert again.unchanged == 6
    assert held.markers == before


def test_what_the_ledger_lost_is_known_by_type_url_and_start_if_it_changed_since(
    day, rules_of, held, tmp_path, clock
):
    old = make_job(state="failed")
    day.run(rules_of(FAILED), make_build([old], state="failed"))
    resumed = make_build([old, make_retry(old, made_s=900, state="failed")], state="failed")

    with Ledger.open(tmp_path / "new.sqlite", clock=clock) as empty:
        done = day.run(rules_of(FAILED), resumed, memory=empty.markers)

    assert (done.created, done.changed) == (0, 1)
    assert len(held.markers) == 1


def test_a_run_that_broke_off_is_gone_on_with(day, rules_of, held, sandbox):
    rules = rules_of(FAILED)
    sandbox.faults.inject(
        "honeycomb", "status", status=503, count=1_000, after=4, path="/1/markers/*"
    )
    with pytest.raises(RetryableError, match="Gave up"):
        day.run(rules, *failed_builds(6))
    assert len(held.markers) == 3
    sandbox.faults.clear()

    done = day.run(rules, *failed_builds(6))

    assert (done.created, done.unchanged) == (3, 3)
    assert len(held.markers) == 6


def test_a_lost_answer_makes_no_second_marker(day, rules_of, held, sandbox):
    sandbox.faults.inject("honeycomb", "reset_after", after=2, path="/1/markers/*")

    done = day.run(rules_of(FAILED), *failed_builds(3))

    assert (done.created, done.found_again) == (3, 1)
    assert len(held.markers) == 3


def test_only_what_we_made_and_no_rule_asks_for_is_deleted(day, rules_of, held, marker):
    theirs, _ = day.client.create(DATASET, marker(), others=())
    day.run(rules_of(f'{FAILED}\nid = "old"', f'{FAILED}\nid = "kept"'), *failed_builds(2))
    rules = rules_of(f'{FAILED}\nid = "kept"')

    planned = day.plan(rules, *failed_builds(2))
    assert {one.rule for one in planned.plan.delete} == {"old"}
    assert day.prune(planned).deleted == 2

    assert len(held.markers) == 3
    assert theirs in {one["id"] for one in held.markers}
    assert {one.rule for one in day.placed()} == {"kept"}
    assert day.plan(rules, *failed_builds(2)).plan.delete == []


def test_a_build_that_no_longer_fits_its_rule_is_for_deletion_and_one_that_is_not_there_stays(
    day, rules_of
):
    rules = rules_of(FAILED)
    one, two = failed_builds(2)
    day.run(rules, one, two)

    planned = day.plan(rules, one | {"state": "passed"})

    [doomed] = planned.plan.delete
    assert doomed.trace_id.hex() == one["id"].replace("-", "")


def test_markers_of_a_rule_that_has_another_dataset_now_are_for_deletion(day, rules_of):
    day.run(rules_of(FAILED), *failed_builds(1))

    planned = day.plan(rules_of(f'{FAILED}\ndataset = "__all__"'), *failed_builds(1))

    assert [one.dataset for one in planned.plan.delete] == [DATASET]
    assert [subject.dataset for subject, _ in planned.plan.create] == ["__all__"]


def test_markers_of_a_rule_that_is_about_jobs_now_are_for_deletion(day, rules_of):
    [build] = failed_builds(1)
    day.run(rules_of(FAILED), build)

    planned = day.plan(rules_of(f'{FAILED}\non = "job"'), build).plan

    assert (len(planned.delete), len(planned.create)) == (1, 1)


def test_what_somebody_deleted_stays_so_until_it_is_to_be_restored(day, rules_of, held):
    rules = rules_of(FAILED)
    day.run(rules, *failed_builds(2))
    day.client.delete(DATASET, held.markers[0]["id"])

    assert len(day.plan(rules, *failed_builds(2), listed=day.client.listed).plan.missing) == 1
    assert day.run(rules, *failed_builds(2)).created == 0
    assert day.run(rules_of(f'{FAILED}\ntype = "x"'), *failed_builds(2)).missing == 1
    assert len(held.markers) == 1
    assert day.run(rules, *failed_builds(2), listed=day.client.listed, restore=True).created == 1
    assert len(held.markers) == 2
    assert len(day.placed()) == 2


def test_a_doomed_marker_that_somebody_deleted_is_forgotten(day, rules_of, held):
    day.run(rules_of(FAILED), *failed_builds(1))
    day.client.delete(DATASET, held.markers[0]["id"])

    done = day.prune(day.plan(rules_of()))

    assert (done.deleted, done.missing) == (0, 1)
    assert day.placed() == []


def test_what_is_too_old_is_not_placed_but_kept_where_it_is(day, rules_of, held):
    rules = rules_of(FAILED)
    one, two = failed_builds(2)
    day.run(rules, one)

    done = day.run(rules, one, two, oldest=2_000_000_000)

    assert (done.created, done.too_old, done.unchanged) == (0, 1, 1)
    assert day.plan(rules, one, two, oldest=2_000_000_000).plan.delete == []
    assert len(held.markers) == 1


def test_types_get_their_colors_when_markers_are_placed(day, rules_of, held):
    rules = rules_of(FAILED, colors='t = "#123456"\nunused = "#000000"')

    day.run(rules, *failed_builds(1))

    assert held.colors == {(DATASET, "t"): "#123456"}
