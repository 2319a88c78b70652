"""Counts the spans that a fault cost, from what the sandbox stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import pyarrow as pa

from benchmarks.scenes import HastyClock, Target
from bk_pipeline.ledger.store import Ledger
from bk_pipeline.sandbox.server import Sandbox
from bk_pipeline_tests.deliver.tables import span_ids


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a fault in spans. Costs can be added.

    Attributes:
        spans: Of how many.
        lost: Not stored, and nothing says so.
        doubled: Stored once more.
        in_doubt: Were under way when an answer failed to come or the process died: so many
            may be doubled.
        told: Not stored, and the ledger lists them (refused, or presumed sent), or the run
            reports how many they are.
    """

    spans: int = 0
    lost: int = 0
    doubled: int = 0
    in_doubt: int = 0
    told: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    @property
    def beyond(self) -> int:
        """Number of spans duplicated although they were not in doubt."""
        return max(0, self.doubled - self.in_doubt)


def cost_of(
    sandbox: Sandbox,
    target: Target,
    made: Sequence[pa.Table],
    path: Path,
    *,
    in_doubt: int,
    told_by_number: int = 0,
) -> Cost:
    """Return the cost for the spans of `made`, delivered with the ledger at `path`.

    Raises:
        ValueError: The sandbox stored spans that were not sent, or the ledger lists spans as
            missing that it stored.
    """
    wanted = span_ids(list(made))
    stored = target.stored(sandbox)
    if unknown := set(stored) - wanted:
        raise ValueError(f"{target.name} stored {len(unknown)} spans that are none of ours")
    missing = wanted - set(stored)
    listed = missing & _listed(path)
    by_number = min(told_by_number, len(missing) - len(listed))
    return Cost(
        spans=len(wanted),
        lost=len(missing) - len(listed) - by_number,
        doubled=len(stored) - len(set(stored)),
        in_doubt=in_doubt,
        told=len(listed) + by_number,
    )


def _listed(path: Path) -> set[tuple[str, str]]:
    """Return the spans that the ledger lists as not known to have arrived."""
    found = set()
    with Ledger.open(path, clock=HastyClock()) as ledger:
        for name in ledger.destinations():
            found |= {(one.trace_id, one.item_id) for one in ledger.rejections(name)}
            for one in ledger.presumed(name):
                found |= {(one.trace_id, item_id) for item_id in one.item_ids}
    return {(trace_id.hex(), item_id.hex()) for trace_id, item_id in found}
