"""The raw store: parts, revisions, watermarks, and errors of the storage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from bk_pipeline.errors import StorageError
from bk_pipeline.spans.timing import to_ns
from bk_pipeline.store import raw as raw_module
from bk_pipeline.store.folder import Folder, _remedy
from bk_pipeline.store.raw import PartWriter, RawStore, Revision

DAY = "2026-11-20"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def record(
    number: int, *, finished: datetime | None = NOON, payload: bytes = b"{}", state="passed"
):
    return SimpleNamespace(
        id=f"build-{number}",
        number=number,
        pipeline="web",
        state=state,
        created_ns=to_ns(NOON - timedelta(hours=2) + timedelta(seconds=number)),
        finished_ns=to_ns(finished) if finished else None,
        payload=payload,
    )


@pytest.fixture
def raw(tmp_path):
    return RawStore(Folder(str(tmp_path)))


def stored(raw: RawStore) -> list[bytes]:
    return [p for part in raw.parts(DAY) for group in raw.payloads(DAY, part) for p in group]


def test_payloads_are_returned_byte_for_byte(raw):
    odd = [b'{"a" :  1, "\\u0000": "\xf0\x9f\x9a\x80"}', b"{}", b'{"n": 1e400}']
    raw.append(DAY, [record(n, payload=one) for n, one in enumerate(odd)], fetched_at=NOON)
    assert stored(raw) == odd


def test_appending_adds_a_part(raw):
    first = raw.append(DAY, [record(1)], fetched_at=NOON)
    second = raw.append(DAY, [record(1)], fetched_at=NOON + timedelta(minutes=1))
    assert raw.parts(DAY) == [first, second]
    assert raw.days() == [DAY]


def test_part_is_sorted_by_creation(raw):
    newest_first = [record(n, payload=b"%d" % n) for n in (3, 2, 1)]
    raw.append(DAY, newest_first, fetched_at=NOON)
    assert stored(raw) == [b"1", b"2", b"3"]


def test_key_columns_are_stored_with_the_payload(raw, tmp_path):
    part = raw.append(DAY, [record(7), record(8, finished=None)], fetched_at=NOON)
    table = pq.read_table(tmp_path / "raw" / DAY / f"{part}.parquet")
    assert table["build_id"].to_pylist() == ["build-7", "build-8"]
    assert table["finished_at"].to_pylist() == [NOON, None]
    assert set(table["fetched_at"].to_pylist()) == {NOON}


def test_revisions_cover_all_records_of_the_day(raw):
    raw.append(DAY, [record(1), record(2, finished=None, state="running")], fetched_at=NOON)
    raw.append(DAY, [record(2, finished=NOON)], fetched_at=NOON)
    assert raw.revisions(DAY) == {
        Revision("build-1", to_ns(NOON), "passed"),
        Revision("build-2", None, "running"),
        Revision("build-2", to_ns(NOON), "passed"),
    }


def test_revisions_since_a_time_exclude_earlier_and_unfinished_builds(raw):
    early, late = NOON - timedelta(hours=1), NOON
    raw.append(DAY, [record(1, finished=early), record(2, finished=None)], fetched_at=NOON)
    raw.append(DAY, [record(3, finished=None)], fetched_at=NOON)
    raw.append(DAY, [record(4, finished=early), record(5, finished=late)], fetched_at=NOON)
    assert {one.build_id for one in raw.revisions(DAY, finished_from=late)} == {"build-5"}
    assert {one.build_id for one in raw.revisions(DAY, finished_from=early)} == {
        "build-1",
        "build-4",
        "build-5",
    }


def test_unknown_day_is_empty(raw):
    assert raw.parts("2020-01-01") == []
    assert raw.revisions("2020-01-01") == set()
    assert raw.watermark("2020-01-01") is None


def test_watermark_is_replaced(raw):
    raw.set_watermark(DAY, NOON)
    raw.set_watermark(DAY, NOON + timedelta(seconds=1))
    assert raw.watermark(DAY) == NOON + timedelta(seconds=1)


def test_writer_stores_parts_before_it_is_flushed(raw, monkeypatch):
    monkeypatch.setattr(raw_module, "PART_BYTES", 100)
    writer = PartWriter(raw, DAY, fetched_at=NOON)
    for page in range(5):
        writer.add([record(page, payload=b"x" * 60)])
    assert len(raw.parts(DAY)) == 2
    writer.flush()
    assert len(raw.parts(DAY)) == 3
    assert writer.builds == len(stored(raw)) == 5


def test_part_is_read_in_bounded_groups(raw, monkeypatch):
    monkeypatch.setattr(raw_module, "ROW_GROUP_BYTES", 100)
    part = raw.append(DAY, [record(n, payload=b"x" * 60) for n in range(5)], fetched_at=NOON)
    assert [len(group) for group in raw.payloads(DAY, part)] == [2, 2, 1]


def test_failed_write_leaves_no_file(raw, tmp_path):
    def failing():
        yield record(1)
        raise RuntimeError("the connection broke")

    with pytest.raises(RuntimeError):
        raw.append(DAY, failing(), fetched_at=NOON)
    assert raw.parts(DAY) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_temporary_file_of_a_killed_run_is_ignored(raw, tmp_path):
    part = raw.append(DAY, [record(1)], fetched_at=NOON)
    folder = tmp_path / "raw" / DAY
    (folder / f"{part}.parquet.0123.tmp").write_bytes(b"PAR1 and then the power went")
    assert raw.parts(DAY) == [part]


def test_error_names_the_damaged_part(raw, tmp_path):
    part = raw.append(DAY, [record(1)], fetched_at=NOON)
    (tmp_path / "raw" / DAY / f"{part}.parquet").write_bytes(b"not parquet")
    with pytest.raises(StorageError, match=part):
        stored(raw)


def test_unwritable_location_names_the_setting(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError, match="BK_PIPELINE_DATA_DIR"):
        RawStore(Folder(str(blocked))).append(DAY, [record(1)], fetched_at=NOON)


@pytest.mark.parametrize(
    ("location", "message", "remedy"),
    [
        (
            "s3://bucket/x",
            "AWS Error ACCESS_DENIED during PutObject operation",
            "AWS_ACCESS_KEY_ID",
        ),
        ("s3://bucket/x", "AWS Error NETWORK (HTTP status 403)", "AWS_ACCESS_KEY_ID"),
        ("gs://bucket/x", "google::cloud::Status(UNAUTHENTICATED: ...)", "GOOGLE_APPLICATION"),
        ("/data", "Permission denied", "Check its permissions"),
        ("s3://bucket/x", "No space left on device", "Make room"),
        ("/data", "No space left on device", "Make room"),
    ],
)
def test_denied_access_asks_for_credentials_and_not_for_space(location, message, remedy):
    advice = _remedy(OSError(message), location)
    assert remedy in advice
    assert ("Make room" in advice) == (remedy == "Make room")
