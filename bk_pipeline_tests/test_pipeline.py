"""Extract, transform and deliver against the sandbox: each step costs only what is new."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.errors import ServiceUnavailable
from bk_pipeline.pipeline import (
    Day,
    deliver_day,
    extract_day,
    quarantined_builds,
    transform_day,
    transform_fingerprint,
)
from bk_pipeline.spans.privacy import Privacy
from bk_pipeline.store.compaction import MAX_SMALL_PARTS
from bk_pipeline.window import Window
from bk_pipeline_tests.deliver.destinations import ScriptedDestination
from bk_pipeline_tests.worlds import Stage, stage


@pytest.fixture
def scene(tmp_path):
    with stage(tmp_path / "data", builds_per_day=130, BK_PIPELINE_HTTP_DEADLINE_S="0") as made:
        yield made


@pytest.fixture
def client(scene) -> BuildkiteClient:
    with scene.services.buildkite(on_wait=print) as made:
        yield made


def day_of(scene: Stage) -> Day:
    [key] = scene.days
    start = datetime.fromisoformat(key).replace(tzinfo=UTC)
    return Day(key, Window(start, start + timedelta(days=1)))


def extract(scene: Stage, client: BuildkiteClient, **options):
    raw = scene.services.raw()
    return extract_day(day_of(scene), client=client, raw=raw, clock=scene.clock, **options)


def finish_one_more(scene: Stage, number: int) -> dict:
    """Add a build of the day that finishes now, and return it."""
    [key] = scene.days
    build = scene.sandbox.world.finish_build_now()
    build = build | {"id": f"late-{number}", "created_at": f"{key}T12:00:00.000Z", "number": number}
    scene.sandbox.world.add_build(build)
    return build


def test_first_extraction_lists_the_whole_day(scene, client):
    found = extract(scene, client)
    assert found.full
    assert found.stored == found.listed > 100
    assert len(scene.services.raw().revisions(scene.days[0])) == found.stored


def test_later_extraction_lists_and_stores_only_new_builds(scene, client):
    extract(scene, client)
    before = scene.sandbox.buildkite.request_count
    finish_one_more(scene, 9_000_001)
    found = extract(scene, client)
    assert not found.full
    assert (found.stored, found.parts) == (1, 1)
    assert found.listed < 20
    assert scene.sandbox.buildkite.request_count == before + 1


def test_builds_listed_again_by_the_overlap_are_not_stored_again(scene, client):
    extract(scene, client)
    finish_one_more(scene, 9_000_001)
    extract(scene, client)
    again = extract(scene, client)
    assert again.listed > 0
    assert (again.stored, again.parts) == (0, 0)


def test_build_that_finishes_again_is_stored_again(scene, client):
    build = finish_one_more(scene, 9_000_001)
    extract(scene, client)
    later = scene.clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
    scene.sandbox.world.add_build(build | {"finished_at": later})
    assert extract(scene, client).stored == 1


def test_failed_listing_keeps_the_watermark_and_the_next_run_completes_it(scene, client):
    scene.sandbox.faults.inject("buildkite", "status", status=503, after=1)
    with pytest.raises(ServiceUnavailable):
        extract(scene, client)
    raw = scene.services.raw()
    assert raw.watermark(scene.days[0]) is None
    found = extract(scene, client)
    assert found.full
    assert len(raw.revisions(scene.days[0])) == found.listed


def test_full_refresh_lists_and_stores_all_builds_again(scene, client):
    first = extract(scene, client)
    again = extract(scene, client, full_refresh=True)
    assert again.full
    assert again.stored >= first.stored


def test_future_day_is_empty_and_sends_no_request(scene, client):
    tomorrow = scene.clock.now() + timedelta(days=1)
    day = Day("future", Window(tomorrow, tomorrow + timedelta(days=1)))
    raw = scene.services.raw()
    found = extract_day(day, client=client, raw=raw, clock=scene.clock)
    assert (found.listed, found.stored, found.watermark) == (0, 0, None)
    assert raw.watermark("future") is None
    assert scene.sandbox.buildkite.request_count == 0


def test_only_new_raw_parts_are_transformed(scene, client):
    raw, spans = scene.services.raw(), scene.services.spans()
    [day] = scene.days
    extract(scene, client)
    first = transform_day(day, raw=raw, spans=spans)
    assert (first.parts, first.summary.builds) == (1, len(raw.revisions(day)))
    assert transform_day(day, raw=raw, spans=spans).parts == 0
    finish_one_more(scene, 9_000_001)
    extract(scene, client)
    second = transform_day(day, raw=raw, spans=spans)
    assert (second.parts, second.summary.builds) == (1, 1)


def test_changed_settings_rebuild_parts_and_delete_old_ones(scene, client):
    raw, spans = scene.services.raw(), scene.services.spans()
    [day] = scene.days
    extract(scene, client)
    transform_day(day, raw=raw, spans=spans)
    hidden = Privacy(drop=("*.email",))
    assert transform_fingerprint(hidden) != transform_fingerprint(Privacy())
    assert transform_day(day, raw=raw, spans=spans, privacy=hidden).parts == 1
    [part] = spans.parts(day)
    assert part.fingerprint == transform_fingerprint(hidden)
    [table] = spans.tables(day, part)
    assert table["buildkite.build.creator.email"].null_count == table.num_rows


def test_spans_are_grouped_by_build_and_sorted_by_time(scene, client):
    raw, spans = scene.services.raw(), scene.services.spans()
    [day] = scene.days
    extract(scene, client)
    transform_day(day, raw=raw, spans=spans)
    [part] = spans.parts(day)
    seen: list[str] = []
    starts = []
    for table in spans.tables(day, part):
        rows = zip(table["trace_id"].to_pylist(), table["start"].to_pylist(), strict=True)
        for trace, start in rows:
            if not seen or seen[-1] != trace:
                assert trace not in seen
                seen.append(trace)
                starts.append(start)
    # Sorted by creation: a root that begins with its first job may start slightly earlier.
    assert all(b - a > timedelta(seconds=-1) for a, b in pairwise(starts))
    assert quarantined_builds(day, spans=spans) == []


def test_nothing_is_written_outside_the_data_directory(scene, client, tmp_path):
    extract(scene, client)
    transform_day(scene.days[0], raw=scene.services.raw(), spans=scene.services.spans())
    assert [path.name for path in Path(tmp_path).iterdir()] == ["data"]


def test_merged_parts_are_transformed_once_and_not_sent_again(scene, client):
    """After many syncs each span is there once, and delivering again sends no request."""
    raw, spans = scene.services.raw(), scene.services.spans()
    [day] = scene.days
    [honeycomb] = scene.services.destinations()
    destination, ledger = honeycomb.open(scene.clock), scene.services.ledger()

    def sync():
        extract(scene, client)
        made = transform_day(day, raw=raw, spans=spans)
        return made, deliver_day(
            day, spans=spans, destination=destination, ledger=ledger, clock=scene.clock
        )

    extract(scene, client)
    for number in range(MAX_SMALL_PARTS + 1):
        finish_one_more(scene, 9_000_000 + number)
        made, sent = sync()
        assert sent.accepted > 0

    assert (made.parts, made.summary.builds) == (1, 1)
    assert sent.already_settled == 0
    assert [part.raw_part for part in spans.parts(day)] == raw.parts(day)
    assert len(raw.parts(day)) == 2
    ids = [
        span_id
        for part in spans.parts(day)
        for table in spans.tables(day, part)
        for span_id in table["span_id"].cast("string").to_pylist()
    ]
    assert len(ids) == len(set(ids))
    events = scene.sandbox.honeycomb.event_count
    assert sync()[1].batches == 0
    assert scene.sandbox.honeycomb.event_count == events
    assert scene.sandbox.honeycomb.duplicate_count == 0


class CountingStore:
    """A span store that counts reads of parts."""

    def __init__(self, store) -> None:
        self._store = store
        self.reads = 0

    def __getattr__(self, name):
        self.reads += name == "tables"
        return getattr(self._store, name)


def test_part_with_too_old_spans_is_read_once_per_maximum_age(scene, client):
    extract(scene, client)
    [day] = scene.days
    transform_day(day, raw=scene.services.raw(), spans=scene.services.spans())
    destination = ScriptedDestination()
    spans = CountingStore(scene.services.spans())

    def deliver(max_age):
        destination.max_age = max_age
        return deliver_day(
            day,
            spans=spans,
            destination=destination,
            ledger=scene.services.ledger(),
            clock=scene.clock,
        )

    first = deliver(timedelta(seconds=1))
    reads = spans.reads
    again = deliver(timedelta(seconds=1))
    assert (first.accepted, reads, spans.reads) == (0, len(spans.parts(day)), reads)
    assert again.too_old == first.too_old > 0

    assert deliver(None).accepted == first.too_old
    assert deliver(timedelta(seconds=1)).too_old == 0
