"""Span tables with odd values in every column, for hypothesis."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pyarrow as pa
from hypothesis import strategies as st

from bk_pipeline.spans.fields import ALL, FIELDS, Field, FieldType
from bk_pipeline.spans.model import SpanKind
from bk_pipeline.spans.table import SCHEMA

ODD = [
    "",
    "\x00",
    'say "hi"',
    "back\\slash",
    "line\nbreak",
    "\x1f\x7f",
    "🚀 é 漢",
    "\u2028",
    "'",
    "{}",
]
texts = st.one_of(st.sampled_from(ODD), st.text(st.characters(codec="utf-8"), max_size=12))
numbers = st.one_of(st.sampled_from([0, -1, 2**63 - 1, -(2**63)]), st.integers(-(10**6), 10**6))
floats = st.one_of(
    st.sampled_from([0.0, 1.0, 0.1, 1e-06, 1e15, 1e22]),
    st.floats(0, 1e9, allow_nan=False, allow_infinity=False),
)
scalars = st.one_of(texts, numbers, st.booleans(), st.none(), st.just(2**70), st.just(0.5))
maps = st.dictionaries(texts, st.one_of(scalars, st.lists(texts, max_size=2)), max_size=4)
moments = st.one_of(
    st.sampled_from([0, 1, 2**63 - 1]), st.integers(0, 2**62), st.just(1_760_000_000_000_000_000)
)


@st.composite
def tables(draw: Any) -> pa.Table:
    """One to three builds of up to four spans; any field of a span's kind may be null."""
    pools = {
        FieldType.STRING: draw(st.lists(texts, min_size=1, max_size=5)),
        FieldType.JSON: draw(st.lists(texts, min_size=1, max_size=3)),
        FieldType.INT: draw(st.lists(numbers, min_size=1, max_size=5)),
        FieldType.FLOAT: draw(st.lists(floats, min_size=1, max_size=5)),
        FieldType.BOOL: [True, False],
        FieldType.STRINGS: [
            text(one) for one in draw(st.lists(st.lists(texts), min_size=1, max_size=3))
        ],
        FieldType.MAP: [text(one) for one in draw(st.lists(maps, min_size=1, max_size=3))],
    }
    times = draw(st.lists(moments, min_size=1, max_size=4))
    # Values are assigned to rows at random; that is not worth shrinking.
    rng = random.Random(draw(st.integers(0, 2**16)))
    rows: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 3))):
        rows += _build(number, draw(st.integers(0, 3)), pools, times, rng)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def odd_string(number: int) -> str:
    """Return a string that contains something odd."""
    return f"{ODD[number % len(ODD)]}{number // len(ODD)}"


# Functions from a number to a string, for `large_table`.
STRINGS: dict[str, Callable[[int], str]] = {
    "odd": odd_string,
    "of one length": lambda number: f"{number:06}",
    "of many lengths": lambda number: f"é{number}" * (number % 30),
    "one of them with a quote": lambda number: f"{number:06}" + '"' * (number == 7),
}


def large_table(
    builds: int, *, distinct: int, string: Callable[[int], str] = odd_string
) -> pa.Table:
    """Return builds of up to four spans, with up to `distinct` values per column."""
    rng = random.Random(distinct)
    strings = [string(n) for n in range(distinct)]
    pools = {
        FieldType.STRING: strings,
        FieldType.JSON: strings,
        FieldType.INT: [(-3) ** (n % 39) for n in range(distinct)],
        FieldType.FLOAT: [n / 3 for n in range(distinct)],
        FieldType.BOOL: [True, False],
        FieldType.STRINGS: [text(strings[n : n + n % 3]) for n in range(distinct)],
        FieldType.MAP: [text({"a": n, strings[n]: strings[n], "b": None}) for n in range(distinct)],
    }
    times = [1_760_000_000_000_000_000 + n * 1_000_000 for n in range(distinct)]
    builds_rows = [_build(n, rng.randrange(4), pools, times, rng) for n in range(builds)]
    return pa.Table.from_pylist([row for rows in builds_rows for row in rows], schema=SCHEMA)


def _build(
    number: int, children: int, pools: dict, times: list[int], rng: random.Random
) -> list[dict[str, Any]]:
    trace_id = rng.choice(["0" * 16, f"{rng.getrandbits(64):016x}"]) + f"{number + 1:016x}"
    root_id = trace_id[16:]

    def value(field: Field) -> Any:
        return rng.choice([None, *pools[field.type]])

    shared = {field.name: value(field) for field in FIELDS if field.per_build}
    rows = []
    for at in range(children + 1):
        kind = (
            SpanKind.BUILD
            if at == 0
            else rng.choice([k for k in SpanKind if k != "buildkite.build"])
        )
        start, end = sorted([rng.choice(times), rng.choice(times)])
        row = {
            "trace_id": trace_id,
            "span_id": root_id if at == 0 else f"{rng.getrandbits(63) + 2**63:016x}",
            "parent_span_id": None if at == 0 else rng.choice([root_id, "f" * 16]),
            "name": str(kind),
            "start": start,
            "end": end,
            "status": rng.choice(["unset", "ok", "error"]),
            "links": [
                {
                    "trace_id": rng.choice([trace_id, "ab" * 16]),
                    "span_id": rng.choice([root_id, "ab" * 8]),
                }
                for _ in range(rng.choice([0, 0, 1, 2]))
            ],
        }
        for field in FIELDS:
            if field.per_build:
                row[field.name] = shared[field.name] if kind in field.kinds else None
            else:
                row[field.name] = value(field) if kind in field.kinds else None
        rows.append(row)
    assert all(field.kinds <= ALL for field in FIELDS)
    return rows


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """Return `table` with other values in a column."""
    return table.set_column(table.schema.get_field_index(name), name, values)


def with_peculiar_columns(table: pa.Table) -> pa.Table:
    """Add a string longer than any backend's limit and a null in a dictionary."""
    urls = [f"https://example.org/{row}" for row in range(len(table))]
    urls[5] = "é" * 40_000
    states = pa.DictionaryArray.from_arrays(
        pa.array([row % 3 for row in range(len(table))], pa.int32()), pa.array(["a", None, "b"])
    )
    table = with_column(table, "buildkite.job.web_url", pa.array(urls))
    return with_column(table, "buildkite.job.state", states)


def text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def with_integers(one: pa.Table) -> pa.Table:
    """Integers of each size, in columns with nulls, without, of one size, and without values."""
    edges = [n for size in range(64) for n in (2**size - 1, -(2**size))]
    some = [edges[row % len(edges)] if row % 3 else None for row in range(len(one))]
    columns = {
        "bk_pipeline.slack_ms": some,
        "buildkite.job.wait_time_ms": [one or 0 for one in some],
        "bk_pipeline.critical_path_ms": [5 if row % 2 else None for row in range(len(one))],
        "buildkite.job.concurrency_wait_time_ms": [None] * len(one),
    }
    for name, values in columns.items():
        at = one.schema.get_field_index(name)
        one = one.set_column(at, name, pa.array(values, pa.int64()))
    return one
