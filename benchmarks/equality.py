"""Checks that two routes sent the same: each span once, with the same values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.sent import Sent, spans_of

Contents = dict[tuple[str, ...], dict[str, Any]]


def require_equal(ours: Iterable[Sent], theirs: Iterable[Sent], route: str) -> str:
    """Compare two routes, and return a sentence on what was compared.

    Raises:
        ValueError: They did not send the same.
    """
    mine, other = _contents(ours, "ours"), _contents(theirs, route)
    if mine.keys() != other.keys():
        only = sorted(mine.keys() ^ other.keys())
        raise ValueError(f"{route}: {len(only)} are on one side alone, first {only[0]}")
    values = 0
    for key, left in mine.items():
        right = other[key]
        values += len(left)
        if left != right:
            names = [name for name in {*left, *right} if left.get(name) != right.get(name)]
            shown = {name: (left.get(name), right.get(name)) for name in sorted(names)}
            raise ValueError(f"{route}: {key} differs (ours, theirs): {shown}")
    return (
        f"{route}: {len(mine):,} spans and links decoded at the sink are the same as ours, "
        f"with all of their {_named(mine, values)}."
    )


def _contents(bodies: Iterable[Sent], route: str) -> Contents:
    found: Contents = {}
    for sent in bodies:
        for one in spans_of(sent):
            if one.key in found:
                raise ValueError(f"{route}: {one.key} came twice")
            found[one.key] = one.content
    return found


def _named(contents: Contents, values: int) -> str:
    nested = sum(
        len(one.get("attributes", ())) + len(one.get("resource", ())) for one in contents.values()
    )
    return f"{nested:,} attributes and {values:,} fields" if nested else f"{values:,} values"
