"""Compaction merges small raw parts and loses no build."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from bk_pipeline.store import compaction
from bk_pipeline.store.compaction import MAX_SMALL_PARTS, REPLACED_GRACE, compact
from bk_pipeline.store.folder import Folder
from bk_pipeline.store.raw import RawStore
from bk_pipeline_tests.store.test_raw import DAY, NOON, record, stored

SECOND = timedelta(seconds=1)


@pytest.fixture
def raw(tmp_path):
    return RawStore(Folder(str(tmp_path)))


@pytest.fixture
def files(tmp_path):
    return lambda: sorted(path.name for path in (tmp_path / "raw" / DAY).iterdir())


def append(raw, count, *, first=0, payload=b"%d"):
    """Append `count` parts of one build each, fetched a second apart."""
    for number in range(first, first + count):
        body = payload % number if b"%d" in payload else payload
        raw.append(DAY, [record(number, payload=body)], fetched_at=NOON + number * SECOND)


def bodies(raw) -> list[int]:
    return sorted(map(int, stored(raw)))


def test_few_small_parts_are_not_merged(raw):
    append(raw, MAX_SMALL_PARTS)
    assert compact(raw, DAY, now=NOON + 1000 * SECOND) is None
    assert len(raw.parts(DAY)) == MAX_SMALL_PARTS


def test_many_small_parts_become_one_with_each_build_once(raw):
    append(raw, MAX_SMALL_PARTS + 1)
    merged = compact(raw, DAY, now=NOON + 1000 * SECOND)
    assert raw.parts(DAY) == [merged]
    assert [int(body) for body in stored(raw)] == list(range(MAX_SMALL_PARTS + 1))
    assert {one.build_id for one in raw.revisions(DAY)} == {
        f"build-{n}" for n in range(MAX_SMALL_PARTS + 1)
    }


def test_newest_record_of_a_build_is_kept(raw):
    append(raw, MAX_SMALL_PARTS)
    for end in (1, 2):
        again = record(7, finished=NOON + end * SECOND, payload=b"%d" % (1000 + end))
        raw.append(DAY, [again], fetched_at=NOON + (500 + end) * SECOND)
    compact(raw, DAY, now=NOON + 1000 * SECOND)
    assert bodies(raw) == sorted({*range(MAX_SMALL_PARTS), 1002} - {7})


def test_large_part_and_older_ones_are_not_merged(raw, monkeypatch):
    """Merging across the large part would make an old record newer than the one in it."""
    append(raw, 3)
    monkeypatch.setattr(compaction, "SMALL_PART_BYTES", 50_000)
    incompressible = random.Random(1).randbytes(100_000)
    raw.append(DAY, [record(99, payload=incompressible)], fetched_at=NOON + 50 * SECOND)
    before = raw.parts(DAY)
    assert raw.sizes(DAY)[before[-1]] >= 50_000
    append(raw, MAX_SMALL_PARTS + 1, first=100)

    merged = compact(raw, DAY, now=NOON + 1000 * SECOND)

    assert raw.parts(DAY) == [*before, merged]


def test_replaced_parts_stay_readable_for_an_hour(raw, files):
    append(raw, MAX_SMALL_PARTS + 1)
    old = raw.parts(DAY)
    now = NOON + 1000 * SECOND
    merged = compact(raw, DAY, now=now)
    compact(raw, DAY, now=now + REPLACED_GRACE - SECOND)
    assert [list(raw.payloads(DAY, part)) for part in old] == [[[b"%d" % n]] for n in range(33)]

    compact(raw, DAY, now=now + REPLACED_GRACE + SECOND)

    assert files() == [f"{merged}.parquet"]
    assert bodies(raw) == list(range(MAX_SMALL_PARTS + 1))


def test_killed_merge_leaves_the_day_unchanged(raw, files, monkeypatch):
    append(raw, MAX_SMALL_PARTS + 1)
    before = files()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compaction, "_in_order", killed)
    with pytest.raises(KeyboardInterrupt):
        compact(raw, DAY, now=NOON + 1000 * SECOND)

    assert files() == before
    assert bodies(raw) == list(range(MAX_SMALL_PARTS + 1))


def test_part_appended_during_a_merge_is_kept(raw, monkeypatch):
    append(raw, MAX_SMALL_PARTS + 1)
    merge = raw.merge

    def merge_after_append(*args, **options):
        append(raw, 1, first=900)
        return merge(*args, **options)

    monkeypatch.setattr(raw, "merge", merge_after_append)
    compact(raw, DAY, now=NOON + 1000 * SECOND)

    assert bodies(raw) == [*range(MAX_SMALL_PARTS + 1), 900]


def test_concurrent_merges_of_the_same_parts_lose_nothing(raw):
    append(raw, MAX_SMALL_PARTS + 1)
    other = RawStore(raw._folder)
    sizes = other.sizes(DAY)
    compact(raw, DAY, now=NOON + 1000 * SECOND)
    other.sizes = lambda _: sizes
    compact(other, DAY, now=NOON + 1001 * SECOND)
    assert set(bodies(raw)) == set(range(MAX_SMALL_PARTS + 1))

    append(raw, MAX_SMALL_PARTS, first=2000)
    compact(raw, DAY, now=NOON + 5000 * SECOND)

    assert bodies(raw) == [*range(MAX_SMALL_PARTS + 1), *range(2000, 2000 + MAX_SMALL_PARTS)]


def test_hundreds_of_syncs_leave_few_files_and_few_merges(raw, files):
    written = []
    for number in range(300):
        append(raw, 1, first=number)
        now = NOON + number * SECOND * 60
        if merged := compact(raw, DAY, now=now):
            written.append(merged)
    assert bodies(raw) == list(range(300))
    assert len(raw.parts(DAY)) <= MAX_SMALL_PARTS + 1
    assert len(files()) <= 4 * MAX_SMALL_PARTS
    assert len(written) <= 300 / (MAX_SMALL_PARTS - 1)


def test_merged_part_is_read_in_bounded_groups(raw, monkeypatch):
    monkeypatch.setattr(compaction, "ROW_GROUP_BYTES", 10_000)
    append(raw, MAX_SMALL_PARTS + 1, payload=b"1" * 1000)
    merged = compact(raw, DAY, now=NOON + 1000 * SECOND)
    assert [len(group) for group in raw.payloads(DAY, merged)] == [10, 10, 10, 3]
