"""The contents of the default world."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import date, timedelta
from statistics import median

import msgspec
import pytest

from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.listing import ListingFilters
from bk_pipeline.sandbox.times import HOUR, MINUTE, day_start, parse_time
from bk_pipeline.sandbox.world import Slowdown, World

TODAY = date(2026, 8, 6)
LONG_AFTER_MS = day_start(TODAY) + 1_000 * HOUR


@pytest.fixture(scope="module")
def payloads(generated_builds):
    """The payload of every build of the default world after all have finished."""
    return [build_as_of(build, LONG_AFTER_MS) for build in generated_builds]


def jobs(build, kind="script"):
    return [job for job in build["jobs"] if job["type"] == kind]


def has_job(kind="script", **fields):
    """A predicate: whether a build has a job whose fields have these values."""

    def matches(build):
        return any(all(job[k] == v for k, v in fields.items()) for job in jobs(build, kind))

    return matches


def unblocked_after(build, least, most):
    return any(
        least
        <= parse_time(job["unblocked_at"])
        - max(parse_time(other["finished_at"]) for other in jobs(build)[:1])
        <= most
        for job in jobs(build, "manual")
        if job["unblocked_at"]
    )


def late_retry(build):
    """Whether a manual retry moved the build's start to hours after its first job's."""
    starts = [job["started_at"] for job in jobs(build) if job["started_at"]]
    return (
        bool(starts)
        and parse_time(build["started_at"]) - parse_time(min(starts)) > 2 * HOUR
        and build["started_at"] not in starts
        and has_job(retried=True, retry_type="manual")(build)
    )


SITUATIONS = {
    "groups": lambda b: any(job["group_key"] for job in jobs(b)),
    "parallel jobs": has_job(parallel_group_index=2, parallel_group_total=3),
    "matrix of two dimensions": lambda b: any(len(job["matrix"] or ()) == 2 for job in jobs(b)),
    "waiters": lambda b: {"id", "graphql_id", "type"} in [job.keys() for job in jobs(b, "waiter")],
    "still blocked": lambda b: b["blocked"] and b["state"] == "passed" and b["finished_at"],
    "unblocked soon": lambda b: unblocked_after(b, 0, 90 * MINUTE),
    "unblocked after hours": lambda b: unblocked_after(b, 3 * HOUR, 60 * HOUR),
    "input step": lambda b: b["meta_data"].get("ticket") == "4711",
    "trigger, async": has_job("trigger", **{"async": True, "state": "passed"}),
    "trigger, waiting": has_job("trigger", **{"async": False, "state": "passed"}),
    "trigger, its build failed": has_job("trigger", state="failed"),
    "triggered": lambda b: b["triggered_from"] and b["source"] == "trigger_job",
    "rebuild": lambda b: b["rebuilt_from"],
    "automatic retry": has_job(retried=True, retry_type="automatic", retried_by=None),
    "manual retry": has_job(retried=True, retry_type="manual", state="failed"),
    "second attempt": has_job(retries_count=1, state="passed"),
    "late manual retry": late_retry,
    "soft failure in a passed build": lambda b: (
        b["state"] == "passed" and has_job(soft_failed=True)(b)
    ),
    "canceled before start": lambda b: b["state"] == "canceled" and b["started_at"] is None,
    "canceled while running": has_job(state="canceled", signal_reason="cancel"),
    "canceled before its turn": has_job(state="canceled", started_at=None),
    "expired": lambda b: any(j["state"] == "expired" and j["expired_at"] for j in jobs(b)),
    "timed out": has_job(state="timed_out"),
    "agent lost": has_job(state="failed", exit_status=-1, signal=None),
    "agent stopped": has_job(state="failed", exit_status=-1, signal_reason="agent_stop"),
    "broken job in a passed build": lambda b: (
        b["state"] == "passed"
        and has_job(state="broken", agent=None, exit_status=None, finished_at=None)(b)
    ),
    "held by a failure": has_job(state="waiting_failed"),
    "skipped": lambda b: b["state"] == "skipped" and not b["jobs"] and b["started_at"] is None,
    "no creator": lambda b: b["creator"] is None,
    "no author": lambda b: b["author"] is None,
    "author as text": lambda b: isinstance(b["author"], str),
    "no name": has_job(name=None),
    "empty name": has_job(name=""),
    "no step key": has_job(step_key=None),
    "emoji in a message": lambda b: "🌙" in (b["message"] or ""),
    "message of several lines": lambda b: "\n" in (b["message"] or ""),
    "commit note": lambda b: "\n" in b["meta_data"].get("buildkite:git:commit", ""),
    "pull request": lambda b: b["pull_request"] and isinstance(b["pull_request"]["id"], str),
    "pull request empty": lambda b: b["pull_request"] == {},
    "pull request null": lambda b: b["pull_request"] is None,
    "tag": lambda b: b["tag"],
    "merge queue": lambda b: b["merge_queue"],
    "environment": lambda b: b["env"],
    "agent meta-data": lambda b: any(
        "queue=default" in j["agent"]["meta_data"] for j in jobs(b) if j["agent"]
    ),
    "cluster": lambda b: b["cluster_id"] and jobs(b) and jobs(b)[0]["cluster_queue_url"],
    "failing for a while": lambda b: b["failing_at"] and b["failing_at"] < b["finished_at"],
    "schedule": lambda b: b["source"] == "schedule",
    "ends on another day": lambda b: (b["finished_at"] or "")[:10] > b["created_at"][:10],
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_default_world_contains(payloads, situation):
    assert any(SITUATIONS[situation](build) for build in payloads)


def test_builds_have_about_ten_jobs(generated_builds):
    counts = [len(build.jobs) for build in generated_builds]
    assert 8 <= sum(counts) / len(counts) <= 12


def test_triggered_builds_exist_and_refer_to_their_trigger(payloads):
    by_id = {build["id"]: build for build in payloads}
    links = 0
    for build in payloads:
        for job in jobs(build, "trigger"):
            if job["triggered_build"] is None:
                continue
            child = by_id[job["triggered_build"]["id"]]
            assert job["triggered_build"] == {
                k: child[k] for k in ("id", "number", "url", "web_url")
            }
            assert child["triggered_from"] == {
                "build_id": build["id"],
                "build_number": build["number"],
                "build_pipeline_slug": build["pipeline"]["slug"],
            }
            links += 1
    assert links > 10


def test_rebuilds_refer_to_a_failed_build(payloads):
    by_id = {build["id"]: build for build in payloads}
    for build in payloads:
        if origin := build["rebuilt_from"]:
            assert by_id[origin["id"]]["state"] == "failed"
            assert origin["url"] == by_id[origin["id"]]["url"]


def test_last_64_bits_of_ids_are_distinct(generated_builds):
    ids = [build.ref.id for build in generated_builds] + [
        job.id for build in generated_builds for job in build.jobs
    ]
    assert len({identifier.replace("-", "")[-16:] for identifier in ids}) == len(ids)


def test_jobs_of_one_step_share_the_step_id(payloads):
    build = next(b for b in payloads if b["pipeline"]["slug"] == "e2e" and len(b["jobs"]) > 6)
    steps = Counter(job["step"]["id"] for job in jobs(build))
    assert max(steps.values()) >= 6
    assert len(steps) == 3


def test_numbers_are_distinct_and_increase_with_creation(payloads):
    for slug in {build["pipeline"]["slug"] for build in payloads}:
        numbers = [b["number"] for b in payloads if b["pipeline"]["slug"] == slug]
        assert numbers == sorted(set(numbers))


def test_builds_of_a_day_do_not_depend_on_the_start_day(world):
    other = World(today=TODAY + timedelta(days=2), days=9)
    yesterday = TODAY - timedelta(days=1)
    assert [build_as_of(b, LONG_AFTER_MS) for b in other.builds(yesterday)] == [
        build_as_of(b, LONG_AFTER_MS) for b in world.builds(yesterday)
    ]


def test_a_world_can_repeat_another_ones_history_on_other_dates():
    other_today = TODAY + timedelta(days=7 * 61)
    original = World(days=2, builds_per_day=30, today=TODAY)
    repeated = World(days=2, builds_per_day=30, today=other_today, like=TODAY)

    def histories(world, today):
        return [
            (
                build.ref.slug,
                build.created_ms - day_start(today),
                build.change,
                build.phases[-1].state,
            )
            for days_ago in (2, 1, 0)
            for build in world.builds(today - timedelta(days=days_ago))
        ]

    assert histories(repeated, other_today) == histories(original, TODAY)


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"builds_per_day": 41}, {"organization": "umbrella"}], ids=str
)
def test_seed_size_and_organization_change_the_builds(world, change):
    other = World(today=TODAY, **change)
    assert {b.ref.id for b in other.builds(TODAY)}.isdisjoint(b.ref.id for b in world.builds(TODAY))


def test_weekends_and_nights_have_fewer_builds():
    world = World(builds_per_day=400, today=TODAY)
    saturday = TODAY - timedelta(days=5)
    assert len(world.builds(saturday)) < len(world.builds(TODAY)) / 2
    hours = Counter(build.created_ms // HOUR % 24 for build in world.builds(TODAY))
    assert sum(hours[h] for h in range(8, 18)) > 5 * sum(hours[h] for h in (22, 23, 0, 1, 4, 5))


def test_day_has_the_requested_number_of_builds(world):
    assert 40 <= len(world.builds(TODAY)) <= 45


def test_world_covers_the_complete_days_and_today(world):
    assert world.first_and_last_day() == (TODAY - timedelta(days=3), TODAY)


def test_today_follows_the_clock_by_default():
    world = World(days=1)
    world.clock = lambda: day_start(date(2025, 3, 1)) / 1000
    assert world.first_and_last_day() == (date(2025, 2, 28), date(2025, 3, 1))
    world.clock = lambda: day_start(date(2025, 3, 2)) / 1000
    assert world.first_and_last_day() == (date(2025, 3, 1), date(2025, 3, 2))


def test_days_before_the_first_day_have_no_builds():
    assert World(today=date(2023, 12, 31)).builds(date(2023, 12, 31)) == []


def test_builds_use_little_memory():
    """Less than 5 kB per build, so that days of 50,000 builds fit in memory."""
    builds = World(builds_per_day=500, today=TODAY).builds(TODAY)
    seen, size = set(), 0
    stack = [part for build in builds for part in (build, build.jobs, *build.jobs)]
    for part in stack:
        if id(part) not in seen:
            seen.add(id(part))
            size += sys.getsizeof(part)
    assert size / len(builds) < 5_000


def test_evicted_days_are_simulated_identically(monkeypatch):
    monkeypatch.setattr("bk_pipeline.sandbox.world._MAX_CACHED_BUILDS", 60)
    world = World(today=TODAY)
    first = world.builds(TODAY)
    world.builds(TODAY - timedelta(days=1))
    again = world.builds(TODAY)
    assert again is not first
    assert [b.ref.id for b in again] == [b.ref.id for b in first]


def test_payloads_have_all_documented_fields(payloads):
    build = msgspec.json.decode(msgspec.json.encode(payloads[0]))
    assert {
        "id",
        "graphql_id",
        "url",
        "web_url",
        "number",
        "state",
        "blocked",
        "meta_data",
    } <= build.keys()
    assert {"scheduled_builds_count", "steps", "provider", "cluster_id"} <= build["pipeline"].keys()


def test_build_finished_on_demand_has_just_finished():
    world = World(today=TODAY)
    now = day_start(TODAY) + 8 * HOUR + 3
    world.clock = lambda: now / 1000
    build = world.finish_build_now()
    assert build["state"] == "passed"
    assert now - 60_000 < parse_time(build["finished_at"]) <= now
    assert [build["id"]] == [
        entry.payload["id"] for entry in world.find(ListingFilters(slug="playground"), now)
    ]
    assert world.finish_build_now()["number"] == build["number"] + 1


def test_added_build_hides_the_generated_build_with_its_id(world):
    own = World(today=TODAY)
    generated = own.builds(TODAY)[0]
    payload = build_as_of(generated, LONG_AFTER_MS) | {"finished_at": "2026-08-07T10:00:00.000Z"}
    own.add_build(payload)
    matches = list(
        own.find(ListingFilters(finished_from=parse_time("2026-08-07T10:00:00Z")), LONG_AFTER_MS)
    )
    assert [entry.payload["id"] for entry in matches] == [generated.ref.id]
    assert own.build(generated.ref.slug, generated.ref.number, LONG_AFTER_MS) is matches[0]


@pytest.mark.parametrize(
    "payload",
    [{}, {"pipeline": None}, {"pipeline": {"slug": "a"}, "number": 1, "created_at": "soon"}],
    ids=["empty", "no pipeline", "no time"],
)
def test_invalid_build_is_not_added(payload):
    with pytest.raises(ValueError, match="Not a build object"):
        World(today=TODAY).add_build(payload)


def test_slowdown_makes_one_step_longer_from_its_day_on():
    today = date(2026, 11, 20)
    slow = Slowdown("web", "bundle", factor=3.0, since=date(2026, 11, 19))
    plain = World(days=3, today=today, builds_per_day=60)
    slower = World(days=3, today=today, builds_per_day=60, slowdown=slow)
    for day in (date(2026, 11, 18), date(2026, 11, 19)):
        steps = [bundle_seconds(world, day) for world in (plain, slower)]
        assert len(steps[0]) == len(steps[1]) > 3
        ratio = median(steps[1]) / median(steps[0])
        assert ratio == pytest.approx(3.0 if day >= slow.since else 1.0, rel=0.05)


def bundle_seconds(world, day):
    return [
        job.ended_ms - job.started_ms
        for build in world.builds(day)
        if build.pipeline.slug == "web"
        for job in build.jobs
        if job.step.key == "bundle" and job.end_state == "passed"
    ]
