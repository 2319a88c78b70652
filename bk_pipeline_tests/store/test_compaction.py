from __future__ import annotations

import random
from datetime import timedelta

import pytest

from bk_pipeline.store import compaction
from bk_pipeline.store.compaction import GRACE, MANY, compact
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
    """`count` parts of a build each, a second after one another."""
    for number in range(first, first + count):
        body = payload % number if b"%d" in payload else payload
        raw.append(DAY, [record(number, payload=body)], fetched_at=NOON + number * SECOND)


def bodies(raw) -> list[int]:
    return sorted(map(int, stored(raw)))


def test_few_small_parts_stay_as_they_are(raw):
    append(raw, MANY)
    assert compact(raw, DAY, now=NOON + 1000 * SECOND) is None
    assert len(raw.parts(DAY)) == MANY


def test_many_small_parts_become_one_with_every_build_once(raw):
    append(raw, MANY + 1)
    merged = compact(raw, DAY, now=NOON + 1000 * SECOND)
    assert raw.parts(DAY) == [merged]
    assert [int(body) for body in stored(raw)] == list(range(MANY + 1))
    assert {one.build_id for one in raw.revisions(DAY)} == {f"build-{n}" for n in range(MANY + 1)}


def test_of_several_records_of_a_build_the_newest_is_kept(raw):
    append(raw, MANY)
    for end in (1, 2):
        again = record(7, finished=NOON + end * SECOND, payload=b"%d" % (1000 + end))
        raw.append(DAY, [again], fetched_at=NOON + (500 + end) * SECOND)
    compact(raw, DAY, now=NOON + 1000 * SECOND)
    assert bodies(raw) == sorted({*range(MANY), 1002} - {7})


def test_a_part_that_is_not_small_is_left_and_so_is_what_is_older(raw, monkeypatch):
    """Merged across it, an old record would become newer than the one in it."""
    append(raw, 3)
    monkeypatch.setattr(compaction, "SMALL_BYTES", 50_000)
    incompressible = random.Random(1).randbytes(100_000)
    raw.append(DAY, [record(99, payload=incompressible)], fetched_at=NOON + 50 * SECOND)
    before = raw.parts(DAY)
    assert raw.sizes(DAY)[before[-1]] >= 50_000
    append(raw, MANY + 1, first=100)

    merged = compact(raw, DAY, now=NOON + 1000 * SECOND)

    assert raw.parts(DAY) == [*before, merged]


def test_readers_have_an_hour_to_finish_with_what_was_replaced(raw, files):
    append(raw, MANY + 1)
    old = raw.parts(DAY)
    now = NOON + 1000 * SECOND
    merged = compact(raw, DAY, now=now)
    compact(raw, DAY, now=now + GRACE - SECOND)
    assert [list(raw.payloads(DAY, part)) for part in old] == [[[b"%d" % n]] for n in range(33)]

    compact(raw, DAY, now=now + GRACE + SECOND)

    assert files() == [f"{merged}.parquet"]
    assert bodies(raw) == list(range(MANY + 1))


def test_a_merge_that_is_killed_leaves_the_day_as_it_was(raw, files, monkeypatch):
    append(raw, MANY + 1)
    before = files()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compaction, "_in_order", killed)
    with pytest.raises(KeyboardInterrupt):
        compact(raw, DAY, now=NOON + 1000 * SECOND)

    assert files() == before
    assert bodies(raw) == list(range(MANY + 1))


def test_a_part_that_comes_while_others_are_merged_stays(raw, monkeypatch):
    append(raw, MANY + 1)
    merge = raw.merge

    def slowly(*args, **options):
        append(raw, 1, first=900)
        return merge(*args, **options)

    monkeypatch.setattr(raw, "merge", slowly)
    compact(raw, DAY, now=NOON + 1000 * SECOND)

    assert bodies(raw) == [*range(MANY + 1), 900]


def test_two_that_merge_the_same_parts_lose_nothing(raw):
    append(raw, MANY + 1)
    other = RawStore(raw._folder)
    sizes = other.sizes(DAY)
    compact(raw, DAY, now=NOON + 1000 * SECOND)
    other.sizes = lambda _: sizes
    compact(other, DAY, now=NOON + 1001 * SECOND)
    assert set(bodies(raw)) == set(range(MANY + 1))

    append(raw, MANY, first=2000)
    compact(raw, DAY, now=NOON + 5000 * SECOND)

    assert bodies(raw) == [*range(MANY + 1), *range(2000, 2000 + MANY)]


def test_a_day_of_hundreds_of_syncs_has_few_files_and_each_was_written_over_seldom(raw, files):
    written = []
    for number in range(300):
        append(raw, 1, first=number)
        now = NOON + number * SECOND * 60
        if merged := compact(raw, DAY, now=now):
            written.append(merged)
    assert bodies(raw) == list(range(300))
    assert len(raw.parts(DAY)) <= MANY + 1
    assert len(files()) <= 4 * MANY
    assert len(written) <= 300 / (MANY - 1)


def test_readers_get_a_bounded_number_at_a_time_of_a_merged_part(raw, monkeypatch):
    monkeypatch.setattr(compaction, "ROW_GROUP_BYTES", 10_000)
    append(raw, MANY + 1, payload=b"1" * 1000)
    merged = compact(raw, DAY, now=NOON + 1000 * SECOND)
    assert [len(group) for group in raw.payloads(DAY, merged)] == [10, 10, 10, 3]
