from __future__ import annotations

from datetime import UTC, timedelta
from zoneinfo import ZoneInfo

import pytest

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.buildkite.listing import PipelineFilter
from bk_pipeline.errors import ServiceUnavailable, TokenRefused
from bk_pipeline.http.retry import RetryPolicy
from bk_pipeline.pipeline.newly_finished import Backlog, PollCursor, poll
from bk_pipeline_tests.buildkite.listed import DAY, Listed, build
from bk_pipeline_tests.http.scripted import as_json, scripted_server

ZONE = ZoneInfo("UTC")
MINUTE_S, DAY_S = 60, 86_400
FIRST_DAY = "2026-10-01"
LONG_AGO = DAY - timedelta(days=40)


@pytest.fixture
def server():
    with scripted_server() as running:
        yield running


@pytest.fixture
def ask(server, clock):
    """Looks at what the server lists; `clock` stands at the noon after `DAY`."""
    clock.moment = DAY + timedelta(hours=12)

    def looked(cursor: PollCursor, *globs: str, first_day: str = FIRST_DAY):
        with BuildkiteClient(
            "acme",
            "token",
            api_url=server.url,
            clock=clock,
            pipelines=PipelineFilter(globs),
            retry_policy=RetryPolicy(deadline_s=0),
        ) as client:
            return poll(client, cursor, first_day=first_day, zone=ZONE, clock=clock)

    return looked


def key(days_ago: int) -> str:
    return (DAY - timedelta(days=days_ago)).date().isoformat()


def backlog(days: int, a_day: int) -> Listed:
    """`a_day` finished builds on each of the last `days` days, spread over the morning."""
    return Listed(
        [
            build(day * a_day + n, n * 40_000 / a_day - day * DAY_S)
            for day in range(days)
            for n in range(a_day)
        ]
    )


def test_one_listing_is_enough_where_little_has_finished(server, ask, clock):
    server.otherwise = Listed([build(1, 60), build(2, -DAY_S)])
    found = ask(PollCursor(LONG_AGO))
    assert found.days == {key(0), key(1)}
    assert found.cursor.backlog is None
    assert found.cursor.since == clock.moment - timedelta(minutes=10)
    # The first listing of a process is proven to be whole; after that a poll is one request.
    assert len(server.requests) == 2
    ask(found.cursor)
    assert len(server.requests) == 3


def test_builds_in_the_overlap_are_new_only_once(server, ask):
    server.otherwise = Listed([build(1, 43_000, finished_at="2026-11-19T11:58:00.000Z")])
    first = ask(PollCursor(LONG_AGO))
    assert first.days == {key(0)}
    assert ask(first.cursor).days == set()


def test_fast_clock_misses_no_build(server, ask):
    theirs = "Thu, 19 Nov 2026 11:30:00 GMT"
    server.otherwise = as_json([], headers={"Date": theirs})
    cursor = ask(PollCursor(LONG_AGO)).cursor
    assert cursor.since == DAY + timedelta(hours=11, minutes=20)
    # It finished within the same half hour of their clock, before our next poll.
    server.otherwise = Listed([build(1, 41_300, finished_at="2026-11-19T11:30:05.000Z")])
    assert ask(cursor).days == {key(0)}


def test_build_that_finishes_again_is_new_again(server, ask):
    server.otherwise = Listed([build(1, 43_000, finished_at="2026-11-19T11:58:00.000Z")])
    first = ask(PollCursor(LONG_AGO))
    server.otherwise = Listed([build(1, 43_000, finished_at="2026-11-19T11:59:00.000Z")])
    assert ask(first.cursor).days == {key(0)}


def test_rest_of_a_known_day_is_skipped(server, ask):
    server.otherwise = backlog(days=10, a_day=400)
    found = ask(PollCursor(LONG_AGO))
    assert found.days == {key(n) for n in range(10)}
    assert found.cursor.backlog is None
    # Three pages of the newest day, one of each other, and that there is nothing before:
    # 4,000 builds would have been 40 pages.
    assert len(server.requests) == 3 + 9 + 1


def test_long_backlog_takes_several_polls(server, ask, clock):
    server.otherwise = backlog(days=35, a_day=150)
    cursor, looks = PollCursor(LONG_AGO), []
    while not looks or cursor.backlog:
        asked = len(server.requests)
        found = ask(cursor)
        looks.append(found.days)
        cursor = found.cursor
        assert len(server.requests) - asked <= 3 + 15
        assert cursor.since == LONG_AGO or not cursor.backlog
        clock.moment += timedelta(seconds=30)
        assert len(looks) < 10
    assert len(looks) == 3
    assert sorted(day for days in looks for day in days) == sorted(key(n) for n in range(35))
    # What finished while the backlog was being read is asked for from where it began.
    assert cursor.since == DAY + timedelta(hours=12) - timedelta(minutes=10)


def test_poll_ends_at_its_time_limit_and_returns_its_position(server, ask, clock):
    days = backlog(days=30, a_day=150)

    def slow(request):
        clock.moment += timedelta(seconds=6)
        return days(request)

    server.otherwise = slow
    found = ask(PollCursor(LONG_AGO))
    assert found.days == {key(n) for n in range(3)}
    assert found.cursor.backlog == Backlog(DAY + timedelta(hours=12), DAY - timedelta(days=2))


def test_error_during_a_poll_keeps_earlier_results(server, ask):
    days = backlog(days=30, a_day=150)
    server.otherwise = lambda request: (
        days(request) if len(server.requests) < 5 else as_json({"message": "busy"}, 503)
    )
    found = ask(PollCursor(LONG_AGO))
    assert found.days == {key(0), key(1), key(2)}
    assert found.cursor.backlog is not None
    with pytest.raises(ServiceUnavailable):
        ask(found.cursor)
    server.otherwise = days
    assert key(3) in ask(found.cursor).days


def test_refusal_is_always_raised(server, ask):
    days = backlog(days=30, a_day=150)
    server.otherwise = lambda request: (
        days(request) if len(server.requests) < 5 else as_json({"message": "revoked"}, 401)
    )
    with pytest.raises(TokenRefused):
        ask(PollCursor(LONG_AGO))


def test_unwanted_pipelines_make_no_day_known(server, ask):
    others = [build(n, n, "other") for n in range(700)]
    server.otherwise = Listed([*others, build(1, -DAY_S, "web"), build(2, -1, "other")])
    found = ask(PollCursor(LONG_AGO), "w*")
    assert found.days == {key(1)}
    assert len(server.requests) == 3 + 5


def test_second_with_too_many_builds_makes_its_day_known(server, ask):
    server.otherwise = Listed(
        [*(build(n, 5, "other") for n in range(500)), build(1, -DAY_S, "web")]
    )
    found = ask(PollCursor(LONG_AGO), "w*")
    assert found.days == {key(0), key(1)}
    assert found.cursor.backlog is None


def test_time_before_the_first_day_is_not_requested(server, ask):
    server.otherwise = backlog(days=10, a_day=150)
    assert ask(PollCursor(LONG_AGO), first_day=key(4)).days == {key(n) for n in range(5)}
    server.requests.clear()
    assert ask(PollCursor(LONG_AGO), first_day="2027-01-01").days == set()
    assert server.requests == []


def test_days_are_those_of_the_time_zone(server, clock):
    clock.moment = DAY + timedelta(hours=12)
    server.otherwise = Listed([build(1, -MINUTE_S)])
    with BuildkiteClient("acme", "token", api_url=server.url, clock=clock) as client:
        cursor = PollCursor(LONG_AGO.astimezone(UTC))
        tokyo = ZoneInfo("Asia/Tokyo")
        found = poll(client, cursor, first_day=FIRST_DAY, zone=tokyo, clock=clock)
    assert found.days == {key(0)}
