"""`bk-pipeline changes`, and what it shares with the asset: the query and the stored table."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from bk_pipeline.pipeline import changes_are_stale, find_changes
from bk_pipeline.spans.table import table_of
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import PartSummary, SpanPart, SpanStore, StatsStore
from bk_pipeline_tests.builders import (
    make_block,
    make_build,
    make_job,
    make_pipeline,
    make_trace,
    uid,
)
from bk_pipeline_tests.cli.program import run

FIRST = date(2026, 3, 2)
DAYS, A_DAY, SLOW_FROM = 20, 24, 11 * 24 + 5
LAST = FIRST + timedelta(days=DAYS - 1)
PART = "20260401T000000.000000Z-11111111"


def text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def build(number: int, *, slug: str = "web", slow: bool = False, fields=(), jobs=None):
    """Build `number` is created at hour `number` of the period; its step `test` takes 300 s."""
    created = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC) + timedelta(hours=number)
    seconds = 300 * random.Random(number).lognormvariate(0, 0.05) * (1.5 if slow else 1)
    begun, done = created + timedelta(seconds=10), created + timedelta(seconds=10 + seconds)
    times = {"created_at": text(created), "runnable_at": text(created)}
    job = make_job(
        "test",
        id=uid(f"job {slug} {number}"),
        started_at=text(begun),
        finished_at=text(done),
        **times,
    )
    return make_build(
        [job] if jobs is None else jobs,
        id=uid(f"build {slug} {number}"),
        number=number,
        commit=f"{number:040x}",
        created_at=text(created),
        started_at=text(begun),
        finished_at=text(done),
        pipeline=make_pipeline(slug=slug),
        web_url=f"https://buildkite.com/acme/{slug}/builds/{number}",
        **dict(fields),
    )


def store(folder, builds, *, part=PART) -> SpanStore:
    spans, by_day = SpanStore(Folder(str(folder))), {}
    for one in builds:
        by_day.setdefault(one["created_at"][:10], []).append(one)
    for day, some in by_day.items():
        table = table_of([make_trace(one) for one in some])
        spans.write(day, SpanPart(part, "aaaaaaaa"), [table], PartSummary())
    return spans


@pytest.fixture(scope="module")
def slower(tmp_path_factory):
    """Two pipelines; the step of `web` takes 50 % longer from build `SLOW_FROM` on."""
    folder = tmp_path_factory.mktemp("slower")
    builds = [
        build(number, slug=slug, slow=slug == "web" and number >= SLOW_FROM)
        for number in range(1, DAYS * A_DAY)
        for slug in ("web", "api")
    ]
    store(folder, builds)
    return folder


def changes(folder, *options, **variables):
    return run("changes", *options, cwd=folder, BK_PIPELINE_DATA_DIR=str(folder), **variables)


def test_the_first_line_answers(slower):
    done = changes(slower)
    assert done.returncode == 0, done.stderr
    answer, *table = done.stdout.splitlines()
    assert answer.startswith("2 changes for the worse since ")
    assert "the largest: web" in answer
    assert " longer since build #" in answer
    assert max(map(len, table)) <= 120
    assert "web / test" in done.stdout
    assert "api" not in done.stdout


def test_json_has_every_field(slower):
    done = changes(slower, "--format", "json", "--pipeline", "w*")
    found = json.loads(done.stdout)
    assert {(one["pipeline"], one["step"], one["measure"]) for one in found} == {
        ("web", None, "duration_s"),
        ("web", "test", "duration_s"),
    }
    for one in found:
        assert abs(one["number"] - SLOW_FROM) <= 2
        assert one["commit"] == f"{one['number']:040x}"
        assert one["url"].endswith(f"/web/builds/{one['number']}")
        assert one["build_id"] == uid(f"build web {one['number']}")
        assert 0.4 < one["change"] < 0.6
        assert one["worse"]
    assert {one["day"] for one in found} == {str(LAST)}


def test_since_leaves_out_what_began_before(slower):
    began = FIRST + timedelta(days=SLOW_FROM // 24)
    assert changes(slower, "--since", str(began)).stdout.startswith("2 changes for the worse")
    later = changes(slower, "--since", str(began + timedelta(days=2)))
    assert later.returncode == 0
    assert later.stdout.startswith("No change for the worse from ")


def test_pipelines_that_do_not_exist(slower):
    done = changes(slower, "--pipeline", "nothing*")
    assert done.stdout.startswith("No change for the worse in pipelines that match nothing*")
    assert json.loads(changes(slower, "--pipeline", "nothing*", "--format", "json").stdout) == []


def test_an_empty_store(tmp_path):
    done = changes(tmp_path)
    assert done.returncode == 1
    assert "bk-pipeline backfill" in done.stderr


def test_one_build(tmp_path):
    store(tmp_path, [build(1)])
    assert changes(tmp_path, BK_PIPELINE_TIMEZONE="America/New_York").stdout.startswith("No change")


def test_builds_without_jobs_and_blocked_ones(tmp_path):
    numbers = range(1, DAYS * A_DAY)
    blocked = [
        build(number, slug="gate", slow=number > 200, jobs=[make_block()], fields={"blocked": True})
        for number in numbers
    ]
    empty = [build(number, slug=":rocket: $(x)", jobs=[]) for number in numbers]
    store(tmp_path, [*blocked, *empty])
    done = changes(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("No change for the worse")


def test_the_newest_revision_of_a_build_counts(tmp_path):
    numbers = range(1, DAYS * A_DAY)
    store(tmp_path, [build(number, slow=number >= SLOW_FROM) for number in numbers])
    store(tmp_path, map(build, numbers), part="20260402T000000.000000Z-22222222")
    assert changes(tmp_path).stdout.startswith("No change for the worse")


def test_found_changes_are_stored_and_keep_their_first_build(slower, tmp_path):
    spans, stats = SpanStore(Folder(str(slower))), StatsStore(Folder(str(tmp_path)))
    nights = [(LAST - timedelta(days=before)).isoformat() for before in (5, 0)]
    found = [
        find_changes(day, spans=spans, stats=stats, zone=ZoneInfo("Europe/Berlin"))
        for day in nights
    ]
    assert len(found[0]) == len(found[1]) == 2
    firsts = [sorted((one.subject, one.number, one.build_id) for one in some) for some in found]
    assert firsts[0] == firsts[1]
    for day, some in zip(nights, found, strict=True):
        rows = stats.read("changes", day).to_pylist()
        assert [row["number"] for row in rows] == [one.number for one in some]
        assert {row["day"] for row in rows} == {day}
        assert not changes_are_stale(day, spans=spans, stats=stats)


def test_a_day_without_any_spans_has_no_changes(tmp_path):
    folder = Folder(str(tmp_path))
    spans, stats = SpanStore(folder), StatsStore(folder)
    assert find_changes("2026-03-02", spans=spans, stats=stats, zone=UTC) == []
    assert stats.read("changes", "2026-03-02").num_rows == 0
    assert not changes_are_stale("2026-03-02", spans=spans, stats=stats)
    store(tmp_path, [build(1)])
    assert changes_are_stale("2026-03-05", spans=spans, stats=stats)
