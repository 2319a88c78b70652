"""Small span tables built from build payloads, for delivery tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, uuid5

import msgspec
import pyarrow as pa

from bk_pipeline.deliver.destination import Item
from bk_pipeline.spans.model import Trace
from bk_pipeline.spans.records import decode_build
from bk_pipeline.spans.table import table_of
from bk_pipeline.spans.tree import spans_for_build

# 25 hours before the time of the fake clock, which is noon of the next day.
START = datetime(2026, 11, 19, 11, tzinfo=UTC)
DAY = "2026-11-19"


def uuid(*parts: object) -> str:
    return str(uuid5(NAMESPACE_URL, "/".join(map(str, parts))))


def moment(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"


def payload(number: int = 1, *, jobs: int = 3, start: datetime | None = None, **fields) -> dict:
    """Return a passed build that starts `number` seconds after START."""
    begin = start or START + timedelta(seconds=number)
    end = begin + timedelta(seconds=60)
    return {
        "id": uuid("build", number),
        "number": number,
        "url": "https://api.buildkite.com/v2/organizations/acme/pipelines/web/builds/1",
        "state": "passed",
        "message": "Fix it",
        "commit": "abc123",
        "branch": "main",
        "created_at": moment(begin),
        "started_at": moment(begin),
        "finished_at": moment(end),
        "pipeline": {"id": uuid("pipeline"), "slug": "web", "name": "Web"},
        "meta_data": {"release": f"v{number}"},
        "jobs": [job(number, at, begin + timedelta(seconds=at + 1)) for at in range(jobs)],
    } | fields


def job(number: int, at: int, begin: datetime, **fields) -> dict:
    return {
        "id": uuid("job", number, at),
        "type": "script",
        "name": f"Step {at}",
        "step_key": f"step-{at}",
        "state": "passed",
        "exit_status": 0,
        "command": "make test",
        "agent": {"id": uuid("agent"), "name": "agent-1", "meta_data": ["queue=default"]},
        "created_at": moment(begin),
        "runnable_at": moment(begin),
        "started_at": moment(begin + timedelta(milliseconds=250)),
        "finished_at": moment(begin + timedelta(seconds=5)),
    } | fields


def trace(build: dict) -> Trace:
    made = spans_for_build(decode_build(msgspec.json.encode(build)))
    assert made is not None
    return made


def table(*builds: dict) -> pa.Table:
    return table_of([trace(one) for one in builds])


def tables(count: int, *, per_table: int = 10, jobs: int = 3, first: int = 1) -> list[pa.Table]:
    """Return tables of `count` builds, `per_table` in each."""
    numbers = list(range(first, first + count))
    return [
        table(*(payload(number, jobs=jobs) for number in numbers[at : at + per_table]))
        for at in range(0, count, per_table)
    ]


def span_count(made: list[pa.Table]) -> int:
    return sum(map(len, made))


def span_ids(made: list[pa.Table]) -> set[tuple[str, str]]:
    return {
        (trace_id, span_id)
        for one in made
        for trace_id, span_id in zip(
            one["trace_id"].to_pylist(), one["span_id"].to_pylist(), strict=True
        )
    }


def joined(items: list[Item]) -> list[Item]:
    """Return the items with their bytes in one piece, because encoders may split them anywhere."""
    return [msgspec.structs.replace(item, pieces=(item.body,)) for item in items]
