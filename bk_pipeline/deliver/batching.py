"""Group items into batches within a destination's limits. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

from bk_pipeline.contracts import ItemIds
from bk_pipeline.deliver.destination import Item, Limits

_size: Callable[[Item], int] = attrgetter("size")
_shared: Callable[[Item], bytes] = attrgetter("shared")


class Batcher:
    """Groups a stream of items into batches, each as full as `limits` allow. Keeps the order.

    An item that exceeds the limits on its own becomes a batch of its own.

    Attributes:
        pending: The items that are not in a batch yet.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._reset()

    def add(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Add `items` and yield each batch that is full."""
        limits = self._limits
        for item in items:
            added = item.size + limits.separator_bytes
            if item.shared not in self._shared_seen:
                added += len(item.shared) + limits.shared_framing_bytes
            if self.pending and (
                self._bytes + added > limits.batch_bytes or len(self.pending) == limits.batch_items
            ):
                yield self.pending
                self._reset()
                added = body_bytes([item], limits) - self._bytes
            self.pending.append(item)
            self._shared_seen.add(item.shared)
            self._bytes += added

    def flush(self) -> Iterator[list[Item]]:
        """Yield the last batch, if any items are left."""
        if self.pending:
            yield self.pending
            self._reset()

    def _reset(self) -> None:
        self.pending: list[Item] = []
        # Values of `Item.shared` in the batch; an empty one takes no space.
        self._shared_seen = {b""}
        # Each item is counted with a separator, but the first one has none.
        self._bytes = self._limits.framing_bytes - self._limits.separator_bytes


def halves(items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    """Split `items` into two halves in order; the first one is never empty."""
    middle = (len(items) + 1) // 2
    return items[:middle], items[middle:]


def body_bytes(items: Sequence[Item], limits: Limits) -> int:
    """Return the size of a request with these items, in bytes before compression."""
    frame = limits.framing_bytes + limits.separator_bytes * (len(items) - 1)
    shared = set(map(_shared, items)) - {b""}
    frame += sum(map(len, shared)) + limits.shared_framing_bytes * len(shared)
    return frame + sum(map(_size, items))


def ids_by_trace(items: Iterable[Item]) -> ItemIds:
    """Return the ids of `items` by trace id."""
    ids: dict[bytes, list[bytes]] = {}
    for item in items:
        ids.setdefault(item.trace_id, []).append(item.item_id)
    return ids
