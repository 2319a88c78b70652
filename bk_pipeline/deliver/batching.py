"""Items into batches, within a destination's limits. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

from bk_pipeline.contracts import ItemIds
from bk_pipeline.deliver.destination import Item, Limits

_size: Callable[[Item], int] = attrgetter("size")
_shared: Callable[[Item], bytes] = attrgetter("shared")


class Batching:
    """Items as they come, to batches, each as full as `limits` allow; their order stays.

    An item that is too large by itself is a batch of its own.

    Attributes:
        pending: Those that are in no batch yet.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._begin()

    def add(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """The batches that are full, now that `items` have come."""
        limits = self._limits
        for item in items:
            added = item.size + limits.separator_bytes
            if item.shared not in self._said:
                added += len(item.shared) + limits.shared_framing_bytes
            if self.pending and (
                self._bytes + added > limits.batch_bytes or len(self.pending) == limits.batch_items
            ):
                yield self.pending
                self._begin()
                added = body_bytes([item], limits) - self._bytes
            self.pending.append(item)
            self._said.add(item.shared)
            self._bytes += added

    def rest(self) -> Iterator[list[Item]]:
        """The last batch, if anything is left for it."""
        if self.pending:
            yield self.pending
            self._begin()

    def _begin(self) -> None:
        self.pending: list[Item] = []
        # What the items have in common that are in it; of nothing nothing is said.
        self._said = {b""}
        # Each item is counted with a separator, and the first has none.
        self._bytes = self._limits.framing_bytes - self._limits.separator_bytes


def halves(items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    """The earlier and the later half; the first is never empty."""
    middle = (len(items) + 1) // 2
    return items[:middle], items[middle:]


def body_bytes(items: Sequence[Item], limits: Limits) -> int:
    """How large a request with these items is, before compression."""
    frame = limits.framing_bytes + limits.separator_bytes * (len(items) - 1)
    shared = set(map(_shared, items)) - {b""}
    frame += sum(map(len, shared)) + limits.shared_framing_bytes * len(shared)
    return frame + sum(map(_size, items))


def ids_of(items: Iterable[Item]) -> ItemIds:
    """The ids of `items`, by trace."""
    by_trace: dict[bytes, list[bytes]] = {}
    for item in items:
        by_trace.setdefault(item.trace_id, []).append(item.item_id)
    return by_trace
