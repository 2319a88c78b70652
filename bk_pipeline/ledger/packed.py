"""Sets of item ids as one value: 8 bytes each, sorted, end to end.

A row for a build instead of one for a span is what keeps the ledger small and its
statements few.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

ITEM_ID_BYTES = 8


def pack(item_ids: Iterable[bytes]) -> bytes:
    """The packed form of `item_ids`, each once. The same set always gives the same bytes."""
    return b"".join(sorted(set(item_ids)))


def unpack(packed: bytes) -> set[bytes]:
    """The ids in `packed`."""
    return {packed[at : at + ITEM_ID_BYTES] for at in range(0, len(packed), ITEM_ID_BYTES)}


def union(one: bytes, other: bytes) -> bytes:
    """The packed form of all ids in either."""
    # As numbers, highest byte first, they have the same order, and are made in one go.
    ids = {*_numbers(one), *_numbers(other)}
    return struct.pack(f">{len(ids)}Q", *sorted(ids))


def merged(packed: bytes, item_ids: Iterable[bytes]) -> bytes:
    """`packed` with `item_ids` added."""
    return pack(unpack(packed).union(item_ids))


def without(packed: bytes, item_ids: Iterable[bytes]) -> bytes:
    """`packed` less `item_ids`."""
    return pack(unpack(packed).difference(item_ids))


def _numbers(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(packed) // ITEM_ID_BYTES}Q", packed)


def count(packed_bytes: int) -> int:
    """How many ids are in so many bytes."""
    return packed_bytes // ITEM_ID_BYTES
