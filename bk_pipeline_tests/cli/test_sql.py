from __future__ import annotations

import csv
import io
import json
import math
import os
import pty
import signal
import stat
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import mean, median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bk_pipeline.sandbox.as_of import build_as_of
from bk_pipeline.sandbox.world import World
from bk_pipeline.spans.costs import Price, Prices, with_costs
from bk_pipeline.spans.table import rows, table_of
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.spans import PartSummary, SpanPart, SpanStore
from bk_pipeline_tests.builders import make_build, make_job, make_trace
from bk_pipeline_tests.cli.program import PROGRAM, started, wait_until
from bk_pipeline_tests.insides import case, insides_of, section, write_insides
from bk_pipeline_tests.store.object_store import object_store

QUERIES = Path(__file__).parents[2] / "examples" / "sql"
DAYS = 16
COUNT = "SELECT count(*) AS n FROM builds"
PRICES = Prices("EUR", (Price("mac", 0.5, 0, (("queue", ("macos",)),)), Price("others", 0.02)))


def store_part(location, day, payloads, *, part="20260101T000000.000000Z-11111111"):
    """Write a span part of `payloads`, as a transform does."""
    store = SpanStore(Folder(str(location)))
    table = with_costs(table_of([make_trace(one) for one in payloads]), PRICES)
    store.write(str(day), SpanPart(part, "aaaaaaaa"), [table], PartSummary())
    return table


INSIDE_STEP = "unit"


def parts_of(job):
    """Two sections, one of which takes three quarters, and a failed test if the job failed."""
    length_s = seconds(job["started_at"], job["finished_at"])
    tests = [section("Install", 0, length_s / 4, phase="plugins")]
    tests.append(section("Tests", length_s / 4, length_s, index=1))
    return [*tests, case("test_total", 0, 1)] if job["state"] == "failed" else tests


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The data directory of a world whose last day is yesterday, and all finished builds in it."""
    folder = tmp_path_factory.mktemp("data")
    today = datetime.now(UTC).date()
    made = World(days=DAYS, builds_per_day=25, today=today - timedelta(days=1))
    first, last = made.first_and_last_day()
    builds, day = [], first
    while day <= last:
        payloads = [
            build_as_of(one, one.created_ms + 30 * 86_400_000, retried_jobs=True)
            for one in made.builds(day)
        ]
        payloads = [one for one in payloads if one and one["finished_at"]]
        table = store_part(folder, day, payloads)
        jobs = [job for _, job in ended(script_jobs(payloads)) if job["step_key"] == INSIDE_STEP]
        inside = insides_of(table, {job["id"]: parts_of(job) for job in jobs})
        write_insides(SpanStore(Folder(str(folder))), str(day), inside)
        builds += payloads
        day += timedelta(days=1)
    return str(folder), builds


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A data directory with a build on each of three days, numbered 1 to 3."""
    folder = tmp_path / "small"
    for number in (1, 2, 3):
        payload = build_of(number)
        store_part(folder, f"2026-11-0{number}", [payload])
    monkeypatch.setenv("BK_PIPELINE_DATA_DIR", str(folder))
    return folder


def build_of(number, **fields):
    ident = f"{number:08x}-0000-4000-8000-000000000000"
    return make_build([make_job(f"job {number}")], id=ident, number=number, **fields)


def answer(call, query, *options, **environment):
    done = call("sql", query, "--format", "json", *options, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Questions, each against a computation from the payloads of the API.


def script_jobs(builds):
    return [
        (build, job) for build in builds for job in build["jobs"] if job.get("type") == "script"
    ]


def ended(jobs):
    return [
        (build, job)
        for build, job in jobs
        if job["started_at"] and job["finished_at"] and job["state"] not in ("broken", "skipped")
    ]


def seconds(begin, end):
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def step_of(job):
    return job["step_key"] or job["name"]


def slowest_pipelines(found, builds):
    today = datetime.now(UTC).date()
    counts = Counter(
        (one["pipeline"]["slug"], one["created_at"][:10])
        for one in builds
        if one["state"] in ("passed", "failed")
        and datetime.fromisoformat(one["created_at"]).date() >= today - timedelta(days=30)
    )
    assert {(row["pipeline"], row["day"]): row["builds"] for row in found} == counts
    assert all(row["p95_s"] > 0 for row in found)


def slowest_steps(found, builds):
    times = defaultdict(list)
    for build, job in ended(script_jobs(builds)):
        times[build["pipeline"]["slug"]].append(seconds(job["started_at"], job["finished_at"]))
    assert found == sorted(found, key=lambda row: -row["minutes"])
    for row in found:
        key = row["pipeline"]
        matching = [
            seconds(job["started_at"], job["finished_at"])
            for build, job in ended(script_jobs(builds))
            if build["pipeline"]["slug"] == key and (job["step_key"] or "") == row["step"]
        ]
        if matching:
            assert row["jobs"] == len(matching)
            assert math.isclose(row["p95_s"], np.quantile(matching, 0.95), abs_tol=0.01)
            assert math.isclose(row["minutes"], sum(matching) / 60, abs_tol=0.01)
    assert any(job["step_key"] == found[0]["step"] for _, job in script_jobs(builds))


def got_slower(found, builds):
    for row in found:
        assert math.isclose(row["change"], row["now_s"] / row["before_s"] - 1, rel_tol=1e-9)
    edge = datetime.now(UTC).date() - timedelta(days=6)
    row = next(
        row for row in found if any(j["step_key"] == row["step"] for _, j in script_jobs(builds))
    )
    times = [
        seconds(job["started_at"], job["finished_at"])
        for build, job in ended(script_jobs(builds))
        if build["pipeline"]["slug"] == row["pipeline"]
        and job["step_key"] == row["step"]
        and job["state"] == "passed"
        and datetime.fromisoformat(build["created_at"]).date() >= edge
    ]
    assert math.isclose(row["now_s"], median(times), abs_tol=0.01)


def failing_steps(found, builds):
    retried = sum(bool(job.get("retried_in_job_id")) for _, job in script_jobs(builds))
    assert sum(row["retries"] for row in found) <= retried
    states = {job["step_key"] for _, job in script_jobs(builds) if job["state"] != "passed"}
    keys = {job["step_key"] for _, job in script_jobs(builds)}
    assert {row["step"] for row in found} & keys <= states
    for row in found:
        assert 0 < row["failures"] <= row["jobs"]
        assert math.isclose(row["failure_rate"], row["failures"] / row["jobs"])


def queue_waits(found, builds):
    edge = datetime.now(UTC).date() - timedelta(days=7)
    waits = defaultdict(list)
    for build, job in [(one, job) for one in builds for job in one["jobs"]]:
        if (
            job.get("runnable_at")
            and job.get("started_at")
            and datetime.fromisoformat(build["created_at"]).date() >= edge
        ):
            runnable = datetime.fromisoformat(job["runnable_at"])
            waits[runnable.hour].append(seconds(job["runnable_at"], job["started_at"]))
    counts = Counter()
    for row in found:
        counts[row["hour"]] += row["jobs"]
    assert counts == {hour: len(some) for hour, some in waits.items()}
    assert all(row["p50_s"] <= row["p95_s"] and 0 <= row["hour"] < 24 for row in found)


def critical_path(found, builds):
    assert all(row["minutes"] >= 0 for row in found)


def waits_for_people(found, builds):
    assert {row["pipeline"] for row in found} == {one["pipeline"]["slug"] for one in builds}
    for row in found:
        parts = row["run_s"] + row["wait_s"] + row["blocked_s"]
        assert math.isclose(row["build_s"], parts, abs_tol=0.01)


def main_branch_health(found, builds):
    states = defaultdict(list)
    for one in builds:
        if one["branch"] in ("main", "master") and one["state"] in ("passed", "failed"):
            states[one["pipeline"]["slug"]].append((one["created_at"], one["state"]))
    assert {row["pipeline"] for row in found} == set(states)
    for row in found:
        of = states[row["pipeline"]]
        assert row["builds"] == len(of)
        assert math.isclose(row["pass_rate"], mean(state == "passed" for _, state in of))
        assert row["last_state"] == max(of)[1]


def slow_builds(found, builds):
    assert len(found) == 10
    pages = {one["web_url"]: one for one in builds}
    assert all(pages[row["url"]]["number"] == row["number"] for row in found)
    assert found == sorted(found, key=lambda row: -row["run_s"])


def agents(found, builds):
    lost = sum(row["lost"] for row in found)
    assert lost <= sum(job.get("exit_status") == -1 for _, job in script_jobs(builds))
    hosts = {job["agent"]["hostname"] for _, job in script_jobs(builds) if job.get("agent")}
    assert {row["agent_hostname"] for row in found} <= hosts


def costs(found, builds):
    edge = datetime.now(UTC).date() - timedelta(days=30)
    total, retried, failed = Counter(), Counter(), Counter()
    for build, job in ended(script_jobs(builds)):
        if datetime.fromisoformat(build["created_at"]).date() < edge:
            continue
        price = 0.5 if "queue=macos" in job["agent_query_rules"] else 0.02
        cost = seconds(job["started_at"], job["finished_at"]) / 60 * price
        slug = build["pipeline"]["slug"]
        total[slug] += cost
        retried[slug] += cost * bool(job["retried_in_job_id"])
        hard = job["state"] in ("failed", "timed_out") and not job["soft_failed"]
        failed[slug] += cost * hard
    assert sum(retried.values()) > 0 < sum(failed.values())
    assert found == sorted(found, key=lambda row: -row["cost"])
    for row in found:
        slug = row["pipeline"]
        assert row["currency"] == "EUR"
        assert math.isclose(row["cost"], total.pop(slug, 0), abs_tol=0.01)
        assert math.isclose(row["cost_per_build"], row["cost"] / row["builds"])
        assert math.isclose(row["retries_cost"], retried[slug], abs_tol=0.01)
        assert math.isclose(row["failures_cost"], failed[slug], abs_tol=0.01)
    assert sum(total.values()) == 0


def slow_sections(found, builds):
    times = defaultdict(list)
    for build, job in ended(script_jobs(builds)):
        if job["step_key"] == INSIDE_STEP:
            times[build["pipeline"]["slug"]].append(seconds(job["started_at"], job["finished_at"]))
    assert len(found) == 2 * len(times)
    for row in found:
        share, phase = {"Install": (0.25, "plugins"), "Tests": (0.75, "command")}[row["name"]]
        matching = times[row["pipeline"]]
        assert (row["step"], row["phase"], row["times"]) == (INSIDE_STEP, phase, len(matching))
        assert math.isclose(row["minutes"], share * sum(matching) / 60, abs_tol=0.01)
    assert found == sorted(found, key=lambda row: -row["minutes"])


def failing_tests(found, builds):
    failed = [
        (build, job)
        for build, job in ended(script_jobs(builds))
        if job["step_key"] == INSIDE_STEP and job["state"] == "failed"
    ]
    assert sum(row["failures"] for row in found) == len(failed)
    pages = {job["web_url"] for _, job in failed}
    for row in found:
        assert (row["class"], row["name"]) == ("tests.cart", "test_total")
        assert row["message"] == "expected 3, got 4"
        assert row["url"] in pages
        assert row["builds"] <= row["failures"]


CHECKS = {
    one.__name__: one
    for one in (
        slowest_pipelines,
        slowest_steps,
        got_slower,
        failing_steps,
        queue_waits,
        critical_path,
        waits_for_people,
        main_branch_health,
        slow_builds,
        agents,
        costs,
        slow_sections,
        failing_tests,
    )
}


def test_every_query_has_a_check_and_a_question():
    assert {path.stem for path in QUERIES.glob("*.sql")} == set(CHECKS)
    assert len(CHECKS) >= 10
    for path in QUERIES.glob("*.sql"):
        assert "?" in path.read_text().splitlines()[0]


@pytest.mark.parametrize("name", CHECKS)
def test_query_answers_its_question(call, world, name):
    folder, builds = world
    done = call(
        *("sql", "--file", str(QUERIES / f"{name}.sql"), "--format", "json"),
        BK_PIPELINE_DATA_DIR=folder,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found
    CHECKS[name](found, builds)


def test_views_have_every_span_and_its_exact_values(call, small):
    payload = build_of(4)
    table = store_part(small, "2026-11-04", [payload])
    [span] = answer(call, "SELECT * FROM spans WHERE day = '2026-11-04' AND name = 'buildkite.job'")
    [expected] = [one for one in rows(table) if one["name"] == "buildkite.job"]
    assert (span["start_ns"], span["end_ns"]) == (
        expected["start_unix_nano"],
        expected["end_unix_nano"],
    )
    times = {"start": ("start", "start_ns"), "end": ("end", "end_ns")}
    names = ("day", *table.column_names)
    assert list(span) == [name for one in names for name in times.get(one, (one,))]
    for name, value in (expected["attributes"] | expected["resource"]).items():
        if name in span:
            assert span[name] == value or json.loads(span[name]) == value
    [job] = answer(call, "SELECT * FROM jobs WHERE day = '2026-11-04'")
    raw = payload["jobs"][0]
    assert job["job_id"] == raw["id"]
    assert job["duration_s"] == seconds(raw["started_at"], raw["finished_at"])
    assert datetime.fromisoformat(job["started_at"]) == datetime.fromisoformat(raw["started_at"])
    [step] = answer(call, "SELECT * FROM steps WHERE day = '2026-11-04'")
    assert step["step"] == job["step"]
    [build] = answer(call, "SELECT * FROM builds WHERE day = '2026-11-04'")
    assert build["url"] == payload["web_url"]


# Revisions and days


def test_only_the_newest_revision_of_a_build_counts(call, small):
    changed = build_of(1, state="failed")
    store_part(small, "2026-11-01", [changed, build_of(9)], part="20260102T000000.000000Z-22222222")
    store_part(small, "2026-11-01", [build_of(8)], part="20260103T000000.000000Z-33333333")
    found = answer(call, "SELECT number, state FROM builds WHERE day = '2026-11-01' ORDER BY ALL")
    assert found == [
        {"number": 1, "state": "failed"},
        {"number": 8, "state": "passed"},
        {"number": 9, "state": "passed"},
    ]
    store = SpanStore(Folder(str(small)))
    tables = store.newest("2026-11-01", columns=["trace_id", "span_id"])
    expected = sorted(
        (one["trace_id"], one["span_id"]) for table in tables for one in table.to_pylist()
    )
    query = "SELECT trace_id, span_id FROM spans WHERE day = '2026-11-01' ORDER BY ALL"
    assert [tuple(one.values()) for one in answer(call, query)] == expected


def test_replaced_part_does_not_count(call, small):
    store = SpanStore(Folder(str(small)))
    merged = SpanPart("20260104T000000.000000Z-44444444-merged", "aaaaaaaa")
    table = table_of([make_trace(build_of(7))])
    replaced = ["20260101T000000.000000Z-11111111"]
    store.write("2026-11-02", merged, [table], PartSummary(), replaces=replaced)
    query = "SELECT number FROM builds WHERE day = '2026-11-02'"
    assert answer(call, query) == [{"number": 7}]


@pytest.mark.parametrize(
    "condition",
    [
        "day >= '2026-11-02'",
        "day > DATE '2026-11-01' AND state = 'passed'",
        "day BETWEEN '2026-11-02' AND '2026-11-03'",
        "day = '2026-11-02'",
        "day >= $since AND day <= $until",
    ],
)
@pytest.mark.parametrize("view", ["builds", "jobs", "steps", "spans"])
@pytest.mark.parametrize("parts", [1, 2])
def test_files_of_other_days_are_not_read(call, small, condition, view, parts):
    if view == "spans":
        condition = condition.replace("state", '"buildkite.job.state"')
    for number in range(1, parts):
        for day in (1, 2, 3):
            part = f"2026010{number + 1}T000000.000000Z-22222222"
            store_part(small, f"2026-11-0{day}", [build_of(day)], part=part)
    for path in small.glob("spans/2026-11-01/*.parquet"):
        path.write_bytes(b"damaged")
    query = f"SELECT count(*) AS n FROM {view} WHERE {condition}"
    if view == "steps":
        query = query.replace("state = 'passed'", "status = 'ok'")
    given = ["--param=since=2026-11-02", "--param=until=2026-11-03"] if "$" in query else []
    [found] = answer(call, query, *given)
    assert found["n"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SELECT $a"], "parameter $a: give it a value, --param a=VALUE"),
        (["SELECT $a", "--param=b=1"], "parameter $a"),
        (["SELECT $a", "--param=a=1", "--param=b=1"], "no parameter $b; it has $a"),
        (["SELECT 1", "--param=b=1"], "no parameter $b; it has none"),
        (["SELECT ?"], "parameter $1"),
        (["SELECT 1", "--param=b"], "expected NAME=VALUE"),
        (["SELECT 1", "--param==1"], "expected NAME=VALUE"),
        (["SELECT $day::DATE", "--param=day=soon"], "soon"),
    ],
)
def test_wrong_parameter_is_named(call, small, arguments, message):
    done = call("sql", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_value_of_a_parameter_is_no_sql(call, small):
    value = "x' OR ''='"
    [found] = answer(call, "SELECT $name AS name", f"--param=name={value}")
    assert found == {"name": value}


def test_damaged_file_is_named_and_left_where_it_is(call, small):
    [path] = small.glob("spans/2026-11-02/*.parquet")
    path.write_bytes(b"damaged")
    done = call("sql", COUNT)
    assert done.returncode == 1
    assert f"spans/2026-11-02/{path.name} is damaged" in done.stderr
    assert path.exists()
    assert answer(call, f"{COUNT} WHERE day <> '2026-11-02'") == [{"n": 2}]


def test_column_that_an_old_file_lacks_is_null(call, small):
    [path] = small.glob("spans/2026-11-01/*.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["bk_pipeline.critical_path"]), path)
    found = answer(call, "SELECT day, on_critical_path AS path FROM jobs ORDER BY day")
    assert [one["path"] for one in found] == [None, True, True]


def test_object_store(call):
    with object_store() as server:
        store_part(server.uri("data"), "2026-11-01", [build_of(1)])
        store_part(server.uri("data"), "2026-11-02", [build_of(2)])
        uri = server.uri("data")
        assert answer(call, COUNT, BK_PIPELINE_DATA_DIR=uri) == [{"n": 2}]
        server.denies_reading = True
        done = call("sql", COUNT, BK_PIPELINE_DATA_DIR=uri)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_empty_store(call):
    done = call("sql", COUNT)
    assert done.returncode == 1
    assert "bk-pipeline backfill" in done.stderr


# What is refused


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO '{folder}/made.csv'",
        "COPY builds TO '{folder}/made.parquet'",
        "ATTACH '{folder}/made.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA version",
        "PRAGMA memory_limit='10GB'",
        "INSERT INTO builds VALUES (1)",
        "DELETE FROM builds",
        "UPDATE builds SET number = 1",
        "CREATE TABLE made (i INT)",
        "CREATE VIEW made AS SELECT 1",
        "DROP VIEW builds",
        "SET threads = 1",
        "SET enable_external_access = true",
        "RESET ALL",
        "EXPORT DATABASE '{folder}/made'",
        "CALL pragma_version()",
        "PREPARE made AS SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY (SELECT 1) TO '{folder}/made.csv'",
        "",
        "-- nothing",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_blob('/etc/passwd')",
        "SELECT * FROM read_parquet('{folder}/small/spans/*/*.parquet')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM 'http://127.0.0.1:1/x.csv'",
        "SELECT getenv('BUILDKITE_API_TOKEN')",
        "SELECT * FROM datasets",
        "SELECT * FROM schema",
        "FROM query('COPY (SELECT 1) TO ''{folder}/made.csv''')",
        "SELEC 1",
        "SELECT nothing FROM builds",
        "SELECT $token",
        "SELECT 'x'::INT",
        "SELECT error('no')",
    ],
)
def test_refused_query_is_one_line_and_changes_nothing(call, small, tmp_path, query):
    token = "bkua_" + "0123456789" * 4
    before = sorted(tmp_path.rglob("*"))
    done = call("sql", query.format(folder=tmp_path), BUILDKITE_API_TOKEN=token)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert token not in done.stderr
    assert "root:" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_message_has_the_hint_and_the_line(call, small):
    done = call("sql", "SELECT number,\n  brunch FROM builds")
    assert '"branch"' in done.stderr
    done = call("sql", "SELECT\n 'x'::INT")
    assert "(line 2: 'x'::INT)" in done.stderr


def test_wrong_query_leaves_the_output_file(call, small, tmp_path):
    output = tmp_path / "out.csv"
    output.write_text("before")
    for query in ("SELECT nothing", "SELECT number::DATE FROM builds"):
        done = call("sql", query, "--format", "csv", "--output", str(output))
        assert done.returncode == 2
        assert output.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir() if "out" in one.name] == ["out.csv"]


@pytest.mark.parametrize("arguments", [(), ("SELECT 1", "--file", "x.sql")])
def test_either_query_or_file(call, small, arguments):
    assert call("sql", *arguments).returncode == 2


def test_query_from_a_file(call, small, tmp_path):
    path = tmp_path / "q.sql"
    path.write_bytes(b"\xef\xbb\xbf-- a comment\nSELECT 7 AS n;\n")
    done = call("sql", "--file", str(path), "--format", "csv")
    assert done.stdout == "n\n7\n"
    assert call("sql", "-- a comment\nSELECT 7 AS n", "--format", "csv").stdout == "n\n7\n"
    path.write_bytes(b"SELECT '\xff'")
    assert call("sql", "--file", str(path)).returncode == 2
    assert call("sql", "--file", str(tmp_path / "none.sql")).returncode == 2


# Output

VALUES = """SELECT 1 AS a, 2 AS a, 'nan'::DOUBLE AS nan, '-inf'::DOUBLE AS inf,
    1.50::DECIMAL(5,2) AS decimal, 170141183460469231731687303715884105727::HUGEINT AS huge,
    18446744073709551615::UBIGINT AS big, INTERVAL '1 year 2 months 3 days 4.5 seconds' AS length,
    [1, NULL] AS list, {'a': {'b': [DATE '2026-01-02']}} AS nested, MAP {1: 'x'} AS map,
    DATE '2026-01-02' AS day, TIMESTAMP '2026-01-02 03:04:05.000006' AS at,
    TIMESTAMPTZ '2026-01-02 03:04:05+01' AS utc, 'infinity'::TIMESTAMP AS never,
    make_timestamp_ns(1) AS ns, '\\xAA'::BLOB AS bytes, NULL AS nothing, true AS yes,
    chr(27) || '[31m' AS escape, 'a,"b"' || chr(10) AS quoted"""


def test_json_is_valid_and_exact(call, small):
    done = call("sql", VALUES, "--format", "json")
    assert "\x1b" not in done.stdout
    [row] = json.loads(done.stdout, parse_float=str)
    assert row == {
        "a": 1,
        "a_2": 2,
        "nan": None,
        "inf": None,
        "decimal": "1.50",
        "huge": 170141183460469231731687303715884105727,
        "big": 18446744073709551615,
        "length": "P1Y2M3DT4.5S",
        "list": [1, None],
        "nested": {"a": {"b": ["2026-01-02"]}},
        "map": {"1": "x"},
        "day": "2026-01-02",
        "at": "2026-01-02T03:04:05.000006",
        "utc": "2026-01-02T02:04:05.000000Z",
        "never": "infinity",
        "ns": "1970-01-01T00:00:00.000000001",
        "bytes": "aa",
        "nothing": None,
        "yes": True,
        "escape": "\x1b[31m",
        "quoted": 'a,"b"\n',
    }


def test_csv_is_read_back(call, small):
    done = call("sql", VALUES, "--format", "csv")
    [row] = csv.DictReader(io.StringIO(done.stdout, newline=""))
    assert row["quoted"] == 'a,"b"\n'
    assert (row["a"], row["a_2"], row["nan"], row["nothing"]) == ("1", "2", "", "")
    assert row["nested"] == '{"a":{"b":["2026-01-02"]}}'
    assert row["length"] == "P1Y2M3DT4.5S"


def test_table_has_no_control_characters(call, small):
    done = call("sql", VALUES)
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize(("format_", "text"), [("json", "[]\n"), ("csv", "number\n")])
def test_no_rows(call, small, format_, text):
    done = call("sql", "SELECT number FROM builds WHERE false", "--format", format_)
    assert done.stdout == text


def test_parquet_file_is_private_and_has_the_types(call, small, tmp_path):
    output = tmp_path / "out.parquet"
    done = call("sql", "FROM builds ORDER BY day", "--format", "parquet", "--output", str(output))
    assert done.returncode == 0, done.stderr
    table = pq.read_table(output)
    assert table["number"].to_pylist() == [1, 2, 3]
    assert table.schema.field("day").type == pa.date32()
    assert table.schema.field("created_at").type == pa.timestamp("us", "UTC")
    assert stat.S_IMODE(output.stat().st_mode) == 0o600


def test_parquet_goes_through_a_pipe_but_to_no_terminal(small):
    command = [PROGRAM, "sql", "SELECT number FROM builds", "--format", "parquet"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert pq.read_table(pa.BufferReader(done.stdout)).num_rows == 3
    text, status = on_terminal(command)
    assert status == 2
    assert "--output" in text


def test_type_that_parquet_lacks_is_reported(call, small, tmp_path):
    output = tmp_path / "out.parquet"
    query = "SELECT INTERVAL 1 MONTH AS i"
    done = call("sql", query, "--format", "parquet", "--output", str(output))
    assert done.returncode == 2
    assert "cast it" in done.stderr
    assert not output.exists()


def test_rows_are_limited_on_a_terminal_only(call, small):
    query = "SELECT range AS n, chr(27) || '[31m' AS c FROM range(250)"
    text, status = on_terminal([PROGRAM, "sql", query])
    assert status == 0
    assert "\x1b[31m" not in text
    assert "150 more rows were left out: --limit 250 shows all." in text
    assert " 99 " in text
    assert len(call("sql", query).stdout.splitlines()) == 251
    limited = call("sql", query, "--limit", "3", "--format", "csv")
    assert len(limited.stdout.splitlines()) == 4
    assert "247 more rows" in limited.stderr


def on_terminal(command):
    """Return what a command shows on a terminal, and its exit status."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=os.environ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # Linux's end of a terminal
            pass
    os.close(ours)
    return shown.decode(), process.returncode


def test_reader_that_stops_early_causes_no_traceback(small):
    query = "SELECT * FROM range(100000000)"
    command = f"{PROGRAM} sql '{query}' --format csv | head -n 2"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "range\n0\n"
    assert "Traceback" not in done.stderr


# Limits


def test_query_that_needs_more_memory_says_so(call, small):
    query = "SELECT list(repeat('x', 1000) || range) FROM range(3_000_000)"
    done = call("sql", query, "--memory", "100")
    assert done.returncode == 1
    assert "--memory" in done.stderr


def test_large_sort_uses_private_temporary_files_that_are_deleted(
    call, small, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    query = "SELECT count(*) AS n FROM (SELECT md5(range::VARCHAR) AS h FROM range(3_000_000) ORDER BY h)"
    assert answer(call, query, "--memory", "64") == [{"n": 3_000_000}]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_ctrl_c_ends_a_long_query(small, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    query = "SELECT count(*) FROM range(100_000_000) a, range(100_000_000) b WHERE a.range * b.range % 7 = 3"
    with started("sql", query, cwd=tmp_path, TMPDIR=str(scratch)) as process:
        wait_until(lambda: any(scratch.iterdir()))
        [folder] = scratch.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert list(scratch.iterdir()) == []


def test_rows_are_not_all_held_in_memory(small):
    program = (
        "import re, sys; sys.argv = ['bk-pipeline', 'sql', "
        "\"SELECT range, repeat('x', 1000) AS x FROM range(600_000)\", '--format', 'csv']\n"
        # Not `ru_maxrss`, which starts with the size of the process that starts this one.
        "import atexit; atexit.register(lambda: sys.stderr.write("
        "re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]))\n"
        "from bk_pipeline.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    # All rows are 600 MB.
    assert int(done.stderr.split()[-1]) < 450_000
