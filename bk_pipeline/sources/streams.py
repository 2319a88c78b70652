"""Bytes from outside as blocks of a fixed size, unpacked if they are gzip."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import chain

BLOCK_BYTES = 1 << 16
GZIP = b"\x1f\x8b"
_AUTOMATIC_HEADER = 32 + zlib.MAX_WBITS


class Unreadable(Exception):
    """The rest of a file cannot be read. The message has nothing of the file's content."""


def blocks(chunks: Iterable[bytes], *, limit_bytes: int) -> Iterator[bytes]:
    """Yield the content of a file in blocks of `BLOCK_BYTES`; the last one may be shorter.

    Gzip is recognized by its first two bytes. The blocks, and where an error comes, do not depend
    on how `chunks` are split.

    Raises:
        Unreadable: The gzip is damaged or incomplete, or there are more than `limit_bytes`,
            unpacked. What comes before has been yielded.
    """
    total = 0
    packed = _regrouped(chunks)
    first = next(packed, b"")
    unpacked = _inflated(chain((first,), packed)) if first.startswith(GZIP) else None
    for block in _regrouped(unpacked) if unpacked else chain((first,), packed):
        total += len(block)
        if total > limit_bytes:
            raise Unreadable(f"it has more than {limit_bytes:,} bytes")
        if block:
            yield block


def _regrouped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    pending = bytearray()
    problem: Unreadable | None = None
    try:
        for chunk in chunks:
            # Never much more than a block, however large a chunk is.
            for at in range(0, len(chunk), BLOCK_BYTES):
                pending += chunk[at : at + BLOCK_BYTES]
                if len(pending) >= BLOCK_BYTES:
                    yield bytes(pending[:BLOCK_BYTES])
                    del pending[:BLOCK_BYTES]
    except Unreadable as error:
        problem = error
    if pending:
        yield bytes(pending)
    if problem is not None:
        raise problem


def _inflated(packed: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces of at most `BLOCK_BYTES`, however well the file is compressed."""
    inflate = None
    try:
        for block in packed:
            rest, full = block, False
            while rest or full:
                inflate = inflate or zlib.decompressobj(_AUTOMATIC_HEADER)
                piece = inflate.decompress(rest, BLOCK_BYTES)
                yield piece
                rest, full = inflate.unconsumed_tail, len(piece) == BLOCK_BYTES
                if inflate.eof:  # a file may have several members, and zeros at its end
                    rest, full, inflate = inflate.unused_data.lstrip(b"\0"), False, None
    except zlib.error as error:
        raise Unreadable("its gzip is damaged") from error
    if inflate is not None:
        raise Unreadable("its gzip ends early")
