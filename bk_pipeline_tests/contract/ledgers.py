"""The ledgers that `test_ledger*.py` and `test_marker_store.py` test.

To add one, add a line to `LEDGERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bk_pipeline.contracts import Rejection
from bk_pipeline_tests.ledger.cluster import fresh_schema

DAY, OTHER_DAY = "2026-11-19", "2026-11-18"
HERE, THERE = "honeycomb:host/team/here", "honeycomb:host/team/there"
ONE, TWO = b"1" * 16, b"2" * 16
A, B, C = b"a" * 8, b"b" * 8, b"c" * 8

OpenLocation = Callable[[Path], AbstractContextManager[Path | str]]


@contextmanager
def sqlite(folder: Path) -> Iterator[Path]:
    """Yield the path of a new SQLite ledger."""
    yield folder / "ledger.sqlite"


def postgres(_folder: Path) -> AbstractContextManager[str]:
    """Yield the URL of an empty PostgreSQL schema."""
    return fresh_schema()


LEDGERS: dict[str, OpenLocation] = {
    "sqlite": sqlite,
    "postgres": postgres,
}


def rejection(trace_id=ONE, item_id=A, name="buildkite.job", reason="400: too many columns"):
    return Rejection(trace_id, item_id, name, reason)


def settle(ledger, items, *, destination=HERE, day=DAY, **outcomes):
    ledger.settle(ledger.begin(destination, day, items), **outcomes)


def settled(ledger, *traces, destination=HERE):
    return {trace: set(ids) for trace, ids in ledger.settled(destination, traces).items()}


def doubtful(ledger, *, destination=HERE, day=DAY):
    return {trace: set(ids) for trace, ids in ledger.in_doubt(destination, day).items()}
