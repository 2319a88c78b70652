"""Spans inside of jobs: in the store, in views and searches, and at destinations."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq
import pytest

from bk_pipeline.defs.daily_asset import day_of
from bk_pipeline.errors import DamagedFile, LedgerBehind
from bk_pipeline.pipeline import adopt_day, deliver_day, extract_day, transform_day
from bk_pipeline.sources.model import DetailSpan
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.spans.table import BUILD_SCHEMA, DETAIL_SCHEMA
from bk_pipeline_tests.details import write_details
from bk_pipeline_tests.worlds import stage

SECTION = "buildkite.job.section"
RULES = '[[rule]]\nid = "some"\nrate = 3\n'


class Journey:
    """One stored day, and its deliveries to Honeycomb and to an OTLP endpoint."""

    def __init__(self, scene) -> None:
        self.scene, self.services = scene, scene.services
        [self.day] = scene.days
        self.store = scene.services.spans()
        self.extract()

    def extract(self) -> None:
        raw = self.services.raw()
        with self.services.buildkite(on_wait=print) as client:
            day = day_of(self.day, self.services.settings)
            extract_day(day, client=client, raw=raw, clock=self.scene.clock)
        transform_day(self.day, raw=raw, spans=self.store)

    def deliver(self, ledger=None) -> dict:
        found = {}
        with ledger or self.services.ledger() as opened:
            for one in self.services.destinations():
                with self.services.destination(one) as to:
                    found[one.asset] = deliver_day(
                        self.day,
                        spans=self.store,
                        destination=to,
                        ledger=opened,
                        clock=self.scene.clock,
                        sampling=self.services.sampling(),
                    )
        return found

    def sent(self) -> tuple[Counter, Counter]:
        """The spans that arrived at Honeycomb and by OTLP, each with how often it did."""
        sandbox = self.scene.sandbox
        events = (one.data for one in sandbox.honeycomb.events if "trace.span_id" in one.data)
        honeycomb = Counter((one["trace.trace_id"], one["trace.span_id"]) for one in events)
        return honeycomb, Counter((one.trace_id, one.span_id) for one in sandbox.otlp.spans)

    def stored(self) -> Counter:
        parts = self.store.delivery_parts(self.day)
        tables = (one for part in parts for one in self.store.tables(self.day, part))
        return Counter(
            one
            for table in tables
            for one in zip(table["trace_id"].to_pylist(), table["span_id"].to_pylist(), strict=True)
        )

    def assert_all_sent_once(self) -> None:
        honeycomb, otlp = self.sent()
        assert honeycomb == otlp == self.stored()
        assert set(honeycomb.values()) == {1}


@pytest.fixture
def scene(tmp_path):
    with stage(tmp_path / "data", builds_per_day=30, otlp=True) as made:
        yield made


@pytest.fixture
def journey(scene):
    return Journey(scene)


def test_details_are_sent_with_the_builds_or_after_them_and_once(journey):
    write_details(journey.store, journey.day, builds=5)
    first = journey.deliver()
    journey.assert_all_sent_once()
    _, table = write_details(journey.store, journey.day, builds=8, find=commands)
    second = journey.deliver()
    journey.assert_all_sent_once()
    assert {one.accepted for one in second.values() if one.batches} == {len(table)}
    assert {one.batches for one in journey.deliver().values()} == {0}
    assert first["honeycomb_events"].accepted > len(table)


def commands(start_ns, end_ns):
    text = {"buildkite.job.section.command": "make test"}
    return [DetailSpan(SpanKind.COMMAND, ("0",), None, start_ns, end_ns, attributes=text)]


def test_spans_arrive_below_their_jobs_with_the_builds_attributes(journey):
    write_details(journey.store, journey.day, builds=2)
    journey.deliver()
    events = [one.data for one in journey.scene.sandbox.honeycomb.events]
    jobs = {one["trace.span_id"]: one for one in events if one.get("name") == "buildkite.job"}
    inside = [one for one in events if one.get("name") == SECTION]
    assert inside
    for one in inside:
        job = jobs[one["trace.parent_id"]]
        for name in ("buildkite.job.id", "buildkite.pipeline.slug", "buildkite.build.number"):
            assert one[name] == job[name]
        assert one["buildkite.job.section.name"].startswith("section ")
        assert "buildkite.job.state" not in one


def test_metrics_do_not_count_what_is_inside_of_jobs(journey):
    write_details(journey.store, journey.day)
    journey.deliver()
    tables = journey.store.newest(journey.day, columns=["trace_id", "name"])
    names = Counter(name for table in tables for name in table["name"].to_pylist())
    totals = journey.scene.sandbox.otlp.metrics.totals
    assert totals["buildkite.builds.count"] == names["buildkite.build"]
    assert totals["buildkite.jobs.count"] <= names["buildkite.job"]


def test_files_have_the_columns_that_their_spans_can_have(journey, tmp_path):
    write_details(journey.store, journey.day, builds=1)
    [build] = (tmp_path / "data" / "spans" / journey.day).glob("*.parquet")
    [detail] = (tmp_path / "data" / "details" / journey.day).glob("*.parquet")
    assert pq.read_schema(build).names == BUILD_SCHEMA.names
    assert pq.read_schema(detail).names == DETAIL_SCHEMA.names


def test_views_and_searches_find_both_and_statistics_only_builds(journey):
    _, table = write_details(journey.store, journey.day, builds=4)
    before = sum(map(len, journey.store.newest(journey.day, columns=["trace_id", "name"])))
    with journey.services.database() as database:
        rows = database.table("SELECT name, count(*) AS n FROM spans GROUP BY name").to_pylist()
        jobs = database.table("SELECT count(*) AS n FROM jobs").to_pylist()[0]["n"]
    counts = {row["name"]: row["n"] for row in rows}
    assert counts[SECTION] == len(table)
    assert sum(counts.values()) == before + len(table)
    assert jobs == counts["buildkite.job"]
    search, trace_id = journey.services.search(), table["trace_id"][0].as_py()
    found = search.spans(search.find_by_trace_id(trace_id, None))["name"].to_pylist()
    assert found[0] == "buildkite.build"
    assert found.count(SECTION) == table["trace_id"].to_pylist().count(trace_id)


def test_read_sources_are_known_by_later_runs(journey):
    assert journey.store.read_sources(journey.day) == []
    write_details(journey.store, journey.day, builds=2)
    write_details(journey.store, journey.day, builds=1)
    found = journey.store.read_sources(journey.day)
    assert {(one.source, one.outcome) for one in found} == {("log", "read")}
    assert len(found) > len({one.span_id for one in found}) > 0


def test_details_of_a_build_go_or_stay_with_it(tmp_path):
    rules = tmp_path / "sampling.toml"
    rules.write_text(RULES)
    named = {"BK_PIPELINE_SAMPLING": str(rules)}
    with stage(tmp_path / "data", builds_per_day=60, otlp=True, **named) as scene:
        journey = Journey(scene)
        journey.deliver()
        write_details(journey.store, journey.day)
        journey.deliver()
        honeycomb, otlp = journey.sent()
        kept = {trace for trace, _ in honeycomb}
        assert (
            honeycomb
            == otlp
            == Counter({o: n for o, n in journey.stored().items() if o[0] in kept})
        )
        assert set(honeycomb.values()) == {1}
        assert 0 < len(kept) < len({trace for trace, _ in journey.stored()})
        rules.write_text("")
        journey.deliver()
        journey.assert_all_sent_once()


def test_lost_ledger_is_noticed_and_adopting_knows_the_details(journey, tmp_path):
    write_details(journey.store, journey.day, builds=6)
    journey.deliver()
    for file in (tmp_path / "data").glob("ledger.sqlite*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(LedgerBehind):
        journey.deliver()
    with journey.services.ledger() as ledger:
        for one in journey.services.destinations():
            with journey.services.destination(one) as to:
                adopt_day(journey.day, spans=journey.store, destination=to, ledger=ledger)
    write_details(journey.store, journey.day, builds=2, find=commands)
    journey.deliver()
    journey.assert_all_sent_once()


def test_damaged_file_is_read_again_and_nothing_is_sent_twice(journey, tmp_path):
    write_details(journey.store, journey.day, builds=3)
    journey.deliver()
    [file] = (tmp_path / "data" / "details" / journey.day).glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DamagedFile):
        journey.store.read_sources(journey.day)
    assert journey.store.read_sources(journey.day) == []
    write_details(journey.store, journey.day, builds=3)
    journey.deliver()
    journey.assert_all_sent_once()
