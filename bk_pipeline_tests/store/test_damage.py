"""Damaged files are quarantined, and their content is fetched or rebuilt."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bk_pipeline.buildkite.client import BuildkiteClient
from bk_pipeline.errors import DamagedFile, StorageError
from bk_pipeline.pipeline import (
    extract_day,
    restore_day,
    stats_are_stale,
    stored_summary,
    summarize_day,
    transform_day,
)
from bk_pipeline.sandbox.server import Sandbox, running
from bk_pipeline.sandbox.world import World
from bk_pipeline.spans.model import SpanOptions
from bk_pipeline.spans.table import SCHEMA
from bk_pipeline.store.compaction import MAX_SMALL_PARTS
from bk_pipeline.store.folder import QUARANTINED, Folder
from bk_pipeline.store.raw import RawStore
from bk_pipeline.store.spans import SpanSearch, SpanStore, StatsStore
from bk_pipeline_tests.buildkite.listed import build, text_of
from bk_pipeline_tests.store.object_store import object_store
from bk_pipeline_tests.test_extraction import DAY, HOUR, MINUTE, START

BUILDS = 12


def flip_bit(path: Path) -> None:
    """Flip one bit among the values of the last column that has a dictionary."""
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(n) for n in range(group.num_columns)]
    column = next(one for one in reversed(columns) if one.dictionary_page_offset)
    begin, end = column.dictionary_page_offset, column.data_page_offset
    content = bytearray(path.read_bytes())
    content[begin + (end - begin) * 3 // 4] ^= 4
    path.write_bytes(content)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "footer": lambda path: path.write_bytes(path.read_bytes()[:-60] + b"x" * 52 + b"PAR1"),
    "flipped bit": flip_bit,
    "folder": replace_by_folder,
}
damaged = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())


@dataclass
class Day:
    """A day of `BUILDS` builds, extracted, transformed and summarized."""

    path: Path | str
    client: BuildkiteClient
    clock: object

    def __post_init__(self):
        folder = Folder(str(self.path))
        self.raw, self.spans, self.stats = RawStore(folder), SpanStore(folder), StatsStore(folder)

    def extract(self, **options):
        self.clock.moment += MINUTE
        return extract_day(DAY, client=self.client, raw=self.raw, clock=self.clock, **options)

    def transform(self, **options):
        return transform_day(DAY.key, raw=self.raw, spans=self.spans, **options)

    def summarize(self):
        return summarize_day(DAY.key, spans=self.spans, stats=self.stats)

    def restore(self, **options):
        return restore_day(
            DAY,
            connect=lambda: self.client,
            raw=self.raw,
            spans=self.spans,
            clock=self.clock,
            **options,
        )

    def file(self, kind: str) -> Path:
        return next((self.path / kind).rglob("*.parquet"))

    def trace_count(self) -> int:
        tables = self.spans.newest(DAY.key, columns=["trace_id", "name"])
        return len({trace for table in tables for trace in table["trace_id"].to_pylist()})

    def quarantined(self) -> list[str]:
        return [
            str(path.relative_to(self.path / QUARANTINED))
            for path in (self.path / QUARANTINED).rglob("*.parquet.*")
        ]


@contextmanager
def day_in(place, clock):
    sandbox = Sandbox(
        World(days=1, builds_per_day=0), limits=False, clock=lambda: clock.now().timestamp()
    )
    for number in range(1, BUILDS + 1):
        created = START + number * HOUR
        end = text_of(created + HOUR)
        sandbox.world.add_build(build(number, created_at=text_of(created), finished_at=end))
    clock.moment = START + 26 * HOUR
    with (
        running(sandbox) as url,
        BuildkiteClient("acme", sandbox.buildkite_token, api_url=url, clock=clock) as client,
    ):
        made = Day(place, client, clock)
        made.extract()
        made.transform()
        made.summarize()
        yield made


@pytest.fixture
def day(clock, tmp_path):
    with day_in(tmp_path / "data", clock) as made:
        yield made


@pytest.fixture(scope="module")
def bucket():
    with object_store() as server:
        yield server


@pytest.fixture
def stored_day(bucket, clock, tmp_path):
    """The same in an object store, under a prefix of the test's own."""
    with day_in(bucket.uri(tmp_path.name), clock) as made:
        yield made


def objects_below(bucket, tmp_path, folder: str) -> list[str]:
    """The keys of the objects in a folder of the test's prefix."""
    return [
        key
        for key in bucket.objects
        if key.startswith(f"{tmp_path.name}/{folder}/") and not key.endswith("/")
    ]


def damage_object(bucket, tmp_path, folder: str, damage) -> None:
    """Damage the one Parquet object of a folder."""
    [key] = [one for one in objects_below(bucket, tmp_path, folder) if one.endswith(".parquet")]
    path = tmp_path / "damaged"
    path.write_bytes(bucket.objects[key])
    damage(path)
    bucket.put(key, path.read_bytes())


def test_restored_spans_follow_the_span_options(day):
    options = SpanOptions(waits=True)
    day.transform(options=options)
    before = day.spans.parts(DAY.key)
    day.file("spans").unlink()
    day.restore(options=options)
    assert day.spans.parts(DAY.key) == before


def test_part_from_before_a_column_existed_is_read_and_not_taken_for_damaged(day):
    path = day.file("spans")
    pq.write_table(pq.read_table(path).drop_columns(["bk_pipeline.cost"]), path)
    [part] = day.spans.parts(DAY.key)
    [table] = day.spans.tables(DAY.key, part)
    assert table.schema == SCHEMA
    assert table["bk_pipeline.cost"].null_count == len(table) > 0
    found = day.summarize()
    assert found.pipelines["cost"].isna().all()
    assert day.quarantined() == []


@damaged
def test_builds_of_a_damaged_raw_part_are_fetched_again(day, damage):
    before = day.spans.parts(DAY.key)
    damage(day.file("raw"))
    day.raw = RawStore(Folder(str(day.path)))

    found, made = day.extract(), day.transform(full_refresh=True)
    if not found.damaged:  # only reading the payloads reveals it
        day.restore()

    [message] = found.damaged or made.damaged
    [name] = day.quarantined()
    assert name.startswith(f"raw/{DAY.key}/")
    assert f"was moved to {QUARANTINED}/{name}. Its content is fetched" in message
    assert day.trace_count() == BUILDS
    assert sum(map(len, day.raw.payloads(DAY.key, day.raw.parts(DAY.key)[0]))) == BUILDS
    assert set(before) <= set(day.spans.parts(DAY.key))
    assert day.extract().listed == 0  # the watermark is valid again


@damaged
def test_damaged_span_part_is_rebuilt_under_its_name(day, damage):
    part = day.spans.parts(DAY.key)
    damage(day.file("spans"))

    with pytest.raises(DamagedFile, match=f"moved to {QUARANTINED}/spans"):
        [*day.spans.tables(DAY.key, part[0]), day.spans.parts(DAY.key)]
    assert day.restore() == []

    assert (day.spans.parts(DAY.key), day.trace_count()) == (part, BUILDS)
    assert stored_summary(DAY.key, spans=day.spans).builds == BUILDS
    assert len(day.quarantined()) == 1


@damaged
def test_damaged_statistics_are_recomputed(day, damage):
    for path in (day.path / "stats").rglob("*.parquet"):
        damage(path)
    stale = stats_are_stale(DAY.key, spans=day.spans, stats=day.stats)
    day.summarize()
    assert (
        stale or damage is flip_bit
    )  # only the footer is read to find out what the rows were computed from
    assert not stats_are_stale(DAY.key, spans=day.spans, stats=day.stats)
    for table in ("pipelines", "steps", "queues"):
        day.stats.read(table, DAY.key)


@pytest.mark.parametrize(
    "damage",
    [
        DAMAGE["empty"],
        DAMAGE["half"],
        DAMAGE["zeros"],
        replace_by_folder,
        lambda path: path.write_bytes(path.read_bytes().replace(b"2026", b"2027")),
        lambda path: path.write_bytes(b"\xff\xfe"),
    ],
    ids=["empty", "half", "zeros", "folder", "another time", "not UTF-8"],
)
def test_damaged_watermark_relists_the_whole_day(day, damage):
    damage(day.path / "raw" / DAY.key / "watermark.json")
    found = day.extract()
    assert (found.full, found.listed, found.stored) == (True, BUILDS, 0)
    assert "watermark.json" in found.damaged[0]
    assert not day.extract().full


@damaged
def test_damaged_part_does_not_stop_the_compaction_of_others(day, damage):
    original = next(day.raw.tables(DAY.key, day.raw.parts(DAY.key)[0]))
    for n in range(MAX_SMALL_PARTS + 1):
        one = original.slice(n % BUILDS, 1)
        day.raw.merge(DAY.key, [], [one], now=START + 27 * HOUR + n * MINUTE)
    day.clock.moment = START + 30 * HOUR
    damage(sorted((day.path / "raw").rglob("*.parquet"))[5])

    found = day.extract()

    assert len(found.damaged) == 1
    assert len(day.raw.parts(DAY.key)) <= 2
    day.transform()
    assert day.trace_count() == BUILDS


in_a_bucket = pytest.mark.parametrize(
    "damage", [DAMAGE["empty"], DAMAGE["half"], flip_bit], ids=["empty", "half", "flipped bit"]
)


@in_a_bucket
def test_damaged_raw_part_in_an_object_store_is_fetched_again(stored_day, bucket, tmp_path, damage):
    damage_object(bucket, tmp_path, "raw", damage)
    day = replace(stored_day)

    found, made = day.extract(), day.transform(full_refresh=True)
    if not found.damaged:  # only reading the payloads reveals it
        day.restore()

    [message] = found.damaged or made.damaged
    [key] = objects_below(bucket, tmp_path, f"{QUARANTINED}/raw/{DAY.key}")
    assert f"s3://bucket/{tmp_path.name} is damaged" in message
    assert f"was moved to {key.removeprefix(f'{tmp_path.name}/')}. Its content is" in message
    assert day.trace_count() == BUILDS
    assert day.extract().listed == 0


@in_a_bucket
def test_damaged_span_part_in_an_object_store_is_rebuilt(stored_day, bucket, tmp_path, damage):
    part = stored_day.spans.parts(DAY.key)
    damage_object(bucket, tmp_path, "spans", damage)
    day = replace(stored_day)

    with pytest.raises(DamagedFile, match=f"moved to {QUARANTINED}/spans"):
        [*day.spans.tables(DAY.key, part[0]), day.spans.parts(DAY.key)]
    assert day.restore() == []

    assert (day.spans.parts(DAY.key), day.trace_count()) == (part, BUILDS)
    assert len(objects_below(bucket, tmp_path, QUARANTINED)) == 1


def test_object_store_that_denies_access_has_no_damaged_files(
    stored_day, bucket, tmp_path, monkeypatch
):
    monkeypatch.setattr(bucket, "denies_reading", True)
    day = replace(stored_day)
    with pytest.raises(StorageError, match="Check the credentials"):
        list(day.raw.tables(DAY.key, day.raw.parts(DAY.key)[0]))
    assert objects_below(bucket, tmp_path, QUARANTINED) == []


def test_old_temporary_objects_are_deleted(stored_day, bucket, tmp_path):
    now = bucket.written_at[f"{tmp_path.name}/swept.json"]
    for name, age in (("old", timedelta(hours=25)), ("recent", timedelta(hours=23))):
        key = f"{tmp_path.name}/raw/{name}.parquet.tmp"
        bucket.put(key, b"")
        bucket.written_at[key] = now - age
    folder = Folder(bucket.uri(tmp_path.name))
    assert folder.delete_stale_temporaries(now=now + timedelta(hours=23)) == 0
    bucket.written_at[f"{tmp_path.name}/swept.json"] = now - timedelta(hours=25)
    assert folder.delete_stale_temporaries(now=now) == 1
    assert f"{tmp_path.name}/raw/recent.parquet.tmp" in bucket.objects


def test_damaged_merged_part_restores_the_parts_it_replaced(day):
    parts = day.raw.parts(DAY.key)
    merged = day.raw.merge(DAY.key, parts, day.raw.tables(DAY.key, parts[0]), now=START + 27 * HOUR)
    day.transform()
    DAMAGE["truncated"](day.path / "raw" / DAY.key / f"{merged}.parquet")
    day.raw = RawStore(Folder(str(day.path)))

    found, made = day.extract(), day.transform()

    assert (len(found.damaged), found.stored) == (1, 0)
    assert day.raw.parts(DAY.key) == parts
    assert made.parts == 0
    assert day.trace_count() == BUILDS


def test_file_damaged_during_a_listing_relists_the_day(day):
    def damage(_):
        DAMAGE["empty"](day.file("raw"))
        with pytest.raises(DamagedFile):
            list(day.raw.tables(DAY.key, day.raw.parts(DAY.key)[0]))

    day.extract(progress=damage, reconcile=True)
    found = day.extract()
    assert (found.full, found.stored) == (True, BUILDS)


def test_search_skips_damaged_files(day):
    part = day.spans.parts(DAY.key)[0]
    tables = list(day.spans.tables(DAY.key, part))
    other = part._replace(raw_part=part.raw_part + "x")
    day.spans.write(DAY.key, other, tables, stored_summary(DAY.key, spans=day.spans))
    DAMAGE["half"](day.path / "spans" / DAY.key / f"{part.name}.parquet")
    found = SpanSearch(Folder(str(day.path))).find_by_number(3, "web")
    assert [one.number for one in found] == [3]


def test_unreadable_storage_does_not_quarantine_files(day, monkeypatch):
    folder = Folder(str(day.path))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder, "read", refuse)
    DAMAGE["truncated"](day.file("raw"))
    with pytest.raises((StorageError, PermissionError)):
        list(RawStore(folder).tables(DAY.key, RawStore(folder).parts(DAY.key)[0]))
    assert day.quarantined() == []


def test_only_old_temporary_files_are_deleted(day):
    names = ["raw/2026-01-01/a.parquet.0f.tmp", "spans/2026-01-01/b.tmp", ".bk-pipeline-doctor-1"]
    ages = {"old": timedelta(hours=25), "recent": timedelta(hours=23)}
    kept = day.path / "raw" / "2026-01-01" / "c.parquet"
    for folder, age in ages.items():
        for name in [*names, "raw/2026-01-01/c.parquet"]:
            path = day.path / name if name.endswith("c.parquet") else day.path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            written = (day.clock.moment - age).timestamp()
            os.utime(path, (written, written))
    (day.path / "swept.json").unlink()

    Folder(str(day.path)).delete_stale_temporaries(now=day.clock.moment)

    remaining = {
        path.relative_to(day.path).parts[0]
        for folder in ages
        for path in (day.path / folder).rglob("*")
        if path.is_file()
    }
    assert remaining == {"recent"}
    assert kept.exists()


def test_temporary_files_are_deleted_at_most_once_a_day(day):
    old = day.path / "x.tmp"
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    marker = (day.path / "swept.json").stat().st_mtime
    folder = Folder(str(day.path))
    now = START.fromtimestamp(marker, tz=START.tzinfo)
    assert folder.delete_stale_temporaries(now=now + timedelta(hours=23)) == 0
    assert folder.delete_stale_temporaries(now=now + timedelta(hours=25)) == 1
    assert not old.exists()
