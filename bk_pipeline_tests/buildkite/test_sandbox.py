"""The client against the sandbox, an independent implementation of the same API."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise

import pytest

from bk_pipeline.buildkite.listing import BranchFilter, PipelineFilter
from bk_pipeline.errors import AccessDenied, NotFound, TokenRefused, UnexpectedAnswer
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline.window import Window

DAYS = Window(datetime(2026, 11, 17, tzinfo=UTC), datetime(2026, 11, 20, tzinfo=UTC))


@pytest.fixture(scope="module")
def world():
    """Three days of builds, generated once; read-only."""
    return World(seed=1, days=3, builds_per_day=120, today=DAYS.end.date())


@pytest.fixture
def run(world, clock, connect):
    """Starts a sandbox with the given options; returns it and a client of it."""
    with ExitStack() as started:

        def start(client=None, of=world, **options):
            sandbox = Sandbox(of, clock=lambda: clock.now().timestamp(), **options)
            url = started.enter_context(running(sandbox))
            return sandbox, connect(url, **{"token": sandbox.buildkite_token, **(client or {})})

        yield start


def ids(pages):
    return [record.id for page in pages for record in page.builds]


def test_days_are_listed_completely_under_any_depth_limit(run, world):
    _, plain = run(limits=False)
    expected = ids(plain.iter_builds(DAYS))
    days = [DAYS.start.date() + timedelta(days=n) for n in range(3)]
    assert len(set(expected)) == len(expected) == sum(len(world.builds(day)) for day in days)

    for max_depth in (100, 200):
        _, client = run(limits=False, max_depth=max_depth)
        assert sorted(ids(client.iter_builds(DAYS))) == sorted(expected)


def test_adjacent_days_share_no_build(run):
    _, client = run(limits=False)
    edges = [DAYS.start + timedelta(days=n) for n in range(4)]

    days = [ids(client.iter_builds(Window(*pair))) for pair in pairwise(edges)]

    assert sorted(chain(*days)) == sorted(ids(client.iter_builds(DAYS)))


def test_later_listing_returns_only_builds_finished_since(run, clock):
    _, client = run(limits=False)
    whole = [record for page in client.iter_builds(DAYS) for record in page.builds]
    since = clock.now() - timedelta(hours=20)

    later = [
        record for page in client.iter_builds(DAYS, finished_from=since) for record in page.builds
    ]

    since_ns = int(since.timestamp()) * 10**9
    assert {r.id for r in later} == {r.id for r in whole if (r.finished_ns or 0) >= since_ns}
    assert 0 < len(later) < len(whole)


def test_payload_has_every_attempt_of_a_retried_job(run):
    _, client = run(limits=False)
    payloads = [json.loads(r.payload) for page in client.iter_builds(DAYS) for r in page.builds]
    assert any(job.get("retried") for payload in payloads for job in payload["jobs"])


def test_pipeline_listed_separately_or_filtered_has_the_same_builds(run):
    globs = ("*", "!no-such")
    _, sifting = run({"pipelines": PipelineFilter(globs)}, limits=False)
    records = [r for page in sifting.iter_builds(DAYS) for r in page.builds]
    slug = records[0].pipeline
    _, single = run({"pipelines": PipelineFilter((slug,))}, limits=False)

    assert ids(single.iter_builds(DAYS)) == [r.id for r in records if r.pipeline == slug]


def test_branches_filtered_by_buildkite_or_the_client_have_the_same_builds(run):
    _, all_of_them = run(limits=False)
    _, theirs = run({"branches": BranchFilter(("main", "feature/*"))}, limits=False)
    _, ours = run({"branches": BranchFilter(("mai[n]", "feature/*"))}, limits=False)

    expected = [
        record.id
        for page in all_of_them.iter_builds(DAYS)
        for record in page.builds
        if record.branch == "main" or record.branch.startswith("feature/")
    ]

    assert ids(theirs.iter_builds(DAYS)) == ids(ours.iter_builds(DAYS)) == expected
    assert expected


@pytest.mark.parametrize("limits", [(6, 200), (50, 8)], ids=["user", "organization"])
def test_threads_share_one_client_without_a_429(run, clock, limits):
    user_limit, organization_limit = limits
    sandbox, client = run(user_limit=user_limit, organization_limit=organization_limit)
    hours = [
        Window(DAYS.start + timedelta(hours=n), DAYS.start + timedelta(hours=n + 1))
        for n in range(24)
    ]

    with ThreadPoolExecutor(6) as pool:
        listed = list(pool.map(lambda hour: ids(client.iter_builds(hour)), hours))

    day = Window(DAYS.start, DAYS.start + timedelta(days=1))
    assert sorted(chain(*listed)) == sorted(ids(client.iter_builds(day)))
    # One for each hour, the day, and what six threads ask before the first `Link` arrives.
    assert sandbox.buildkite.request_count <= 24 + 3 + 6
    assert clock.slept


def test_client_waits_while_others_use_the_organization_quota(run, clock, messages):
    sandbox, client = run()
    client.access_token()
    sandbox.limits.consume("rest", 185)
    client.access_token()
    client.access_token()

    assert "organization quota is down to its reserve" in messages[0]
    assert sum(clock.slept) >= 60


def test_client_waits_after_a_429_caused_by_others(run, clock, messages):
    sandbox, client = run()
    sandbox.limits.consume("rest_user", 60)

    assert client.access_token().scopes
    assert "user quota (50 a minute) is spent (429)" in messages[0]
    assert sum(clock.slept) == pytest.approx(61)


@pytest.mark.parametrize("kind", ["status", "reset", "reset_after", "cut_body"])
def test_day_is_complete_despite_faults(run, kind):
    sandbox, client = run(limits=False)
    expected = ids(client.iter_builds(DAYS))
    sandbox.faults.inject("buildkite", kind, count=2, after=1)

    assert ids(client.iter_builds(DAYS)) == expected
    assert len(sandbox.buildkite.requests) > 4


def test_login_page_stops_the_listing(run, clock):
    sandbox, client = run()
    sandbox.faults.inject("buildkite", "html")
    with pytest.raises(UnexpectedAnswer, match="Sign in"):
        list(client.iter_builds(DAYS))
    assert clock.slept == []


def test_errors_distinguish_token_scope_and_organization(run, connect):
    sandbox, client = run()
    assert "read_builds" in client.access_token().scopes
    assert client.organization_visible()
    url = client._session.origin
    assert not connect(url, sandbox.buildkite_token, organization="other").organization_visible()
    with pytest.raises(NotFound, match="no organization other"):
        list(connect(url, sandbox.buildkite_token, organization="other").iter_builds(DAYS))
    with pytest.raises(AccessDenied, match="scope read_builds"):
        connect(url, sandbox.add_token(scopes=["read_artifacts"])).organization_visible()
    with pytest.raises(TokenRefused):
        connect(url, "no-such-token").access_token()


def test_newly_finished_builds_are_found(run, clock):
    sandbox, client = run(of=World(seed=2, days=1, builds_per_day=20), limits=False)
    before = clock.now()
    clock.moment += timedelta(minutes=30)
    payload = sandbox.world.finish_build_now()
    clock.moment += timedelta(seconds=1)

    window = Window(before - timedelta(days=1), clock.now())
    found = client.iter_finished(window, finished_from=before, max_pages=2)

    assert payload["id"] in {small.id for small in found}
    assert all(small.finished_ns >= before.timestamp() * 10**9 - 10**9 for small in found)
    assert found.quarantined == []
