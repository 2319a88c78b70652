"""Files that hold no longer what was written: moved aside, and what they held is there again."""

from __future__ import annotations

import os
from dataclasses import dataclass
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
from bk_pipeline.store.compaction import MANY
from bk_pipeline.store.folder import QUARANTINED, Folder
from bk_pipeline.store.raw import RawStore
from bk_pipeline.store.search import SpanSearch
from bk_pipeline.store.spans import SpanStore, StatsStore
from bk_pipeline_tests.buildkite.listed import build, text_of
from bk_pipeline_tests.test_extraction import DAY, HOUR, MINUTE, START

BUILDS = 12


def flip(path: Path) -> None:
    """One bit, amid the values of the last column that has a dictionary."""
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    column = next(one for one in reversed(columns) if one.dictionary_page_offset)
    begin, end = column.dictionary_page_offset, column.data_page_offset
    content = bytearray(path.read_bytes())
    content[begin + (end - begin) * 3 // 4] ^= 4
    path.write_bytes(content)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "footer": lambda path: path.write_bytes(path.read_bytes()[:-60] + b"x" * 52 + b"PAR1"),
    "flipped bit": flip,
    "folder": make_folder,
}
damaged = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())


@dataclass
class Day:
    """A day of `BUILDS` builds, extracted, transformed and summarized."""

    path: Path
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

    def restore(self):
        return restore_day(
            DAY, connect=lambda: self.client, raw=self.raw, spans=self.spans, clock=self.clock
        )

    def file(self, kind: str) -> Path:
        return next((self.path / kind).rglob("*.parquet"))

    def traces(self) -> int:
        tables = self.spans.newest(DAY.key, columns=["trace_id", "name"])
        return len({trace for table in tables for trace in table["trace_id"].to_pylist()})

    def quarantined(self) -> list[str]:
        return [
            str(path.relative_to(self.path / QUARANTINED))
            for path in (self.path / QUARANTINED).rglob("*.parquet.*")
        ]


@pytest.fixture
def day(clock, tmp_path):
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
        made = Day(tmp_path / "data", client, clock)
        made.extract()
        made.transform()
        made.summarize()
        yield made


@damaged
def test_builds_of_a_damaged_raw_part_are_fetched_again(day, damage):
    before = day.spans.parts(DAY.key)
    damage(day.file("raw"))
    day.raw = RawStore(Folder(str(day.path)))

    found, made = day.extract(), day.transform(full_refresh=True)
    if not found.damaged:  # only who reads the payloads sees it
        day.restore()

    [message] = found.damaged or made.damaged
    [name] = day.quarantined()
    assert name.startswith(f"raw/{DAY.key}/")
    assert f"was moved to {QUARANTINED}/{name}. What it held is fetched" in message
    assert day.traces() == BUILDS
    assert sum(map(len, day.raw.payloads(DAY.key, day.raw.parts(DAY.key)[0]))) == BUILDS
    assert set(before) <= set(day.spans.parts(DAY.key))
    assert day.extract().listed == 0  # the watermark holds again


@damaged
def test_damaged_span_part_is_made_again_under_its_name(day, damage):
    part = day.spans.parts(DAY.key)
    damage(day.file("spans"))

    with pytest.raises(DamagedFile, match=f"moved to {QUARANTINED}/spans"):
        [*day.spans.tables(DAY.key, part[0]), day.spans.parts(DAY.key)]
    assert day.restore() == []

    assert (day.spans.parts(DAY.key), day.traces()) == (part, BUILDS)
    assert stored_summary(DAY.key, spans=day.spans).builds == BUILDS
    assert len(day.quarantined()) == 1


@damaged
def test_damaged_statistics_are_made_again(day, damage):
    for path in (day.path / "stats").rglob("*.parquet"):
        damage(path)
    stale = stats_are_stale(DAY.key, spans=day.spans, stats=day.stats)
    day.summarize()
    assert stale or damage is flip  # a day's rows are not read to know what they are made of
    assert not stats_are_stale(DAY.key, spans=day.spans, stats=day.stats)
    for table in ("pipelines", "steps", "queues"):
        day.stats.read(table, DAY.key)


@pytest.mark.parametrize(
    "damage",
    [
        DAMAGE["empty"],
        DAMAGE["half"],
        DAMAGE["zeros"],
        make_folder,
        lambda path: path.write_bytes(path.read_bytes().replace(b"2026", b"2027")),
        lambda path: path.write_bytes(b"\xff\xfe"),
    ],
    ids=["empty", "half", "zeros", "folder", "another time", "no text"],
)
def test_damaged_watermark_has_the_whole_day_listed(day, damage):
    damage(day.path / "raw" / DAY.key / "watermark.json")
    found = day.extract()
    assert (found.full, found.listed, found.stored) == (True, BUILDS, 0)
    assert "watermark.json" in found.damaged[0]
    assert not day.extract().full


@damaged
def test_damaged_part_amid_many_does_not_stop_their_compaction(day, damage):
    original = next(day.raw.tables(DAY.key, day.raw.parts(DAY.key)[0]))
    for n in range(MANY + 1):
        one = original.slice(n % BUILDS, 1)
        day.raw.merge(DAY.key, [], [one], now=START + 27 * HOUR + n * MINUTE)
    day.clock.moment = START + 30 * HOUR
    damage(sorted((day.path / "raw").rglob("*.parquet"))[5])

    found = day.extract()

    assert len(found.damaged) == 1
    assert len(day.raw.parts(DAY.key)) <= 2
    day.transform()
    assert day.traces() == BUILDS


def test_damaged_merged_part_gives_its_builds_back(day):
    parts = day.raw.parts(DAY.key)
    merged = day.raw.merge(DAY.key, parts, day.raw.tables(DAY.key, parts[0]), now=START + 27 * HOUR)
    day.transform()
    DAMAGE["cut short"](day.path / "raw" / DAY.key / f"{merged}.parquet")
    day.raw = RawStore(Folder(str(day.path)))

    found, made = day.extract(), day.transform()

    assert (len(found.damaged), found.stored) == (1, 0)
    assert day.raw.parts(DAY.key) == parts
    assert made.parts == 0
    assert day.traces() == BUILDS


def test_file_damaged_while_a_day_is_listed_has_it_listed_again(day):
    def damage(_):
        DAMAGE["empty"](day.file("raw"))
        with pytest.raises(DamagedFile):
            list(day.raw.tables(DAY.key, day.raw.parts(DAY.key)[0]))

    day.extract(progress=damage, reconcile=True)
    found = day.extract()
    assert (found.full, found.stored) == (True, BUILDS)


def test_a_trace_is_found_beside_a_damaged_file(day):
    part = day.spans.parts(DAY.key)[0]
    tables = list(day.spans.tables(DAY.key, part))
    other = part._replace(raw_part=part.raw_part + "x")
    day.spans.write(DAY.key, other, tables, stored_summary(DAY.key, spans=day.spans))
    DAMAGE["half"](day.path / "spans" / DAY.key / f"{part.name}.parquet")
    found = SpanSearch(Folder(str(day.path))).find_by_number(3, "web")
    assert [one.number for one in found] == [3]


def test_storage_that_cannot_be_read_is_no_damage(day, monkeypatch):
    folder = Folder(str(day.path))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder, "read", refuse)
    DAMAGE["cut short"](day.file("raw"))
    with pytest.raises((StorageError, PermissionError)):
        list(RawStore(folder).tables(DAY.key, RawStore(folder).parts(DAY.key)[0]))
    assert day.quarantined() == []


def test_old_temporary_files_are_deleted_and_young_ones_stay(day):
    names = ["raw/2026-01-01/a.parquet.0f.tmp", "spans/2026-01-01/b.tmp", ".bk-pipeline-doctor-1"]
    ages = {"old": timedelta(hours=25), "young": timedelta(hours=23)}
    kept = day.path / "raw" / "2026-01-01" / "c.parquet"
    for age, since in ages.items():
        for name in [*names, "raw/2026-01-01/c.parquet"]:
            path = day.path / name if name.endswith("c.parquet") else day.path / f"{age}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            written = (day.clock.moment - since).timestamp()
            os.utime(path, (written, written))
    (day.path / "swept.json").unlink()

    Folder(str(day.path)).drop_old_temporaries(now=day.clock.moment)

    left = {
        p.relative_to(day.path).parts[0]
        for a in ages
        for p in (day.path / a).rglob("*")
        if p.is_file()
    }
    assert left == {"young"}
    assert kept.exists()


def test_temporary_files_are_looked_for_once_a_day(day):
    old = day.path / "x.tmp"
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    marker = (day.path / "swept.json").stat().st_mtime
    folder = Folder(str(day.path))
    now = START.fromtimestamp(marker, tz=START.tzinfo)
    assert folder.drop_old_temporaries(now=now + timedelta(hours=23)) == 0
    assert folder.drop_old_temporaries(now=now + timedelta(hours=25)) == 1
    assert not old.exists()
