"""Items into batches, within a destination's limits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from bk_pipeline.deliver.destination import Item, Limits
from bk_pipeline.deliver.receipts import ItemIds


def batches(items: Iterable[Item], limits: Limits) -> Iterator[list[Item]]:
    """Lists of items, each as full as `limits` allow; together all of `items`, in their order.

    An item that is too large by itself is a batch of its own.
    """
    batch: list[Item] = []
    said = {b""}
    size = 0
    for item in items:
        added = item.size + (limits.separator_bytes if batch else limits.framing_bytes)
        if item.shared not in said:
            added += len(item.shared) + limits.shared_framing_bytes
        if batch and (size + added > limits.batch_bytes or len(batch) == limits.batch_items):
            yield batch
            batch, said, size = [], {b""}, 0
            added = body_bytes([item], limits)
        batch.append(item)
        said.add(item.shared)
        size += added
    if batch:
        yield batch


def halves(items: Sequence[Item]) -> tuple[Sequence[Item], Sequence[Item]]:
    """The earlier and the later half; the first is never empty."""
    middle = (len(items) + 1) // 2
    return items[:middle], items[middle:]


def body_bytes(items: Sequence[Item], limits: Limits) -> int:
    """How large a request with these items is, before compression."""
    frame = limits.framing_bytes + limits.separator_bytes * (len(items) - 1)
    shared = {item.shared for item in items} - {b""}
    frame += sum(map(len, shared)) + limits.shared_framing_bytes * len(shared)
    return frame + sum(item.size for item in items)


def ids_of(items: Iterable[Item]) -> ItemIds:
    """The ids of `items`, by trace."""
    by_trace: dict[bytes, list[bytes]] = {}
    for item in items:
        by_trace.setdefault(item.trace_id, []).append(item.item_id)
    return by_trace
