"""The faults to inject into the sandbox, and two faults of the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from benchmarks.scenes import BATCH, IMPATIENT, PATIENT, SPANS_TO_POISON
from bk_pipeline.http.network import Timeouts

LASTING = 1_000_000
BOTH = ("Honeycomb", "OTLP")
# Pages that fit on the disk beyond those of an empty ledger.
ROOM_PAGES = 2

InjectLedgerFault = Callable[[Path], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Trouble:
    """One fault.

    Attributes:
        name: The name in the table.
        kind: The sandbox's name of the fault; "" for a fault of the ledger.
        details: Arguments of `Faults.inject`.
        targets: The destinations that it applies to.
        batch_items: Spans per batch.
        ledger: Injects a fault into the ledger at a path, during the first run.
    """

    name: str
    kind: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = BOTH
    batch_items: int = BATCH
    ledger: InjectLedgerFault = nullcontext

    @property
    def timeouts(self) -> Timeouts:
        """The timeouts of the destination."""
        return IMPATIENT if self.kind == "hang" else PATIENT


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    with sqlite3.connect(path) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0] + ROOM_PAGES
    connection.close()

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(Engine, "connect", limit)
    try:
        yield
    finally:
        event.remove(Engine, "connect", limit)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.rollback()
        other.close()


ONE_BAD = "Event has too many columns."

TROUBLES = (
    Trouble("429, four times", "status", {"status": 429, "count": 4}),
    Trouble(
        "429 with Retry-After: 20", "status", {"status": 429, "headers": {"Retry-After": "20"}}
    ),
    Trouble("500, twice", "status", {"status": 500, "count": 2}),
    Trouble("502, twice", "status", {"status": 502, "count": 2}),
    Trouble("503, twice", "status", {"status": 503, "count": 2}),
    Trouble("connection reset before acceptance, twice", "reset", {"count": 2}),
    Trouble("connection reset after acceptance, twice", "reset_after", {"count": 2}),
    Trouble("an answer that never comes, nothing taken", "hang"),
    Trouble("an answer that never comes, all taken", "hang", {"processed": True}),
    Trouble("an answer cut short", "cut_body"),
    Trouble("an HTML page for an answer, then repaired", "html", {"count": LASTING}),
    Trouble("an answer 7 elements short", "short_answer", {"missing": 7}, BOTH[:1]),
    Trouble(
        "3 of 50 events throttled singly",
        "event_status",
        {"status": 429, "indexes": (0, 3, 49)},
        BOTH[:1],
    ),
    Trouble(
        "one poisoned event in 500",
        "event_status",
        {"status": 400, "indexes": (137,), "error": ONE_BAD},
        BOTH[:1],
        SPANS_TO_POISON,
    ),
    Trouble(
        "one poisoned span in 500, not said which",
        "partial",
        {"rejected_spans": 1},
        BOTH[1:],
        SPANS_TO_POISON,
    ),
    Trouble("key revoked in mid-run, then replaced", "status", {"status": 401, "count": LASTING}),
    Trouble("disk full for the ledger, then room", ledger=_full_disk),
    Trouble("ledger locked by another writer, then free", ledger=_locked),
)
