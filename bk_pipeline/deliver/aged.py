"""Notes on parts of which all is settled but what is too old, so that nobody reads them again.

A note holds for one `max_age` alone: what is too old stays so, but with another limit the
part has to be looked at again. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta


def aged_note(part: str, too_old: int, max_age: timedelta) -> str:
    """What the ledger notes for `part`, of which so many spans were not sent."""
    return f"{_begin(part, max_age)}{too_old}"


def too_old_in(notes: Collection[str], part: str, max_age: timedelta | None) -> int | None:
    """How many spans of `part` are too old and all others settled, if a note says so."""
    if max_age is None:
        return None
    begin = _begin(part, max_age)
    return next((int(note[len(begin) :]) for note in notes if note.startswith(begin)), None)


def _begin(part: str, max_age: timedelta) -> str:
    return f"{part} older than {int(max_age.total_seconds())} s: "
