"""What the loop asks of a ledger: the one who delivers and the one who remembers, apart.

`bk_pipeline.ledger` has the real one. What it promises is said there; the contract tests
hold every implementation to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from bk_pipeline.contracts import ItemIds, Rejection


class Receipts(Protocol):
    """The ledger, as the loop sees it. For several threads at once."""

    def settled(self, destination: str, trace_ids: Collection[bytes]) -> ItemIds:
        """The items of these traces that must not be sent (again)."""
        ...

    def in_doubt(self, destination: str, day: str) -> ItemIds:
        """The items of `day` that left and whose answer is not known."""
        ...

    def begin(self, destination: str, day: str, items: ItemIds) -> int:
        """The number of a new batch, in doubt from now on."""
        ...

    def begin_again(self, destination: str, day: str, batch: int) -> None:
        """Note that a batch in doubt is about to be sent once more."""
        ...

    def accept(self, batch: int) -> None:
        """Write down that all of a batch was accepted."""
        ...

    def settle(
        self,
        batch: int,
        *,
        accepted: ItemIds | None = None,
        rejected: Iterable[Rejection] = (),
        in_doubt: ItemIds | None = None,
    ) -> None:
        """Write down what became of a batch; what is not named is as if never sent."""
        ...

    def presume_sent(self, destination: str, day: str) -> int:
        """Take for sent what is in doubt of `day`; how many items."""
        ...

    def drop_settled_doubts(self, destination: str, day: str) -> None:
        """Forget that items of `day` were in doubt where they have been settled since."""
        ...
