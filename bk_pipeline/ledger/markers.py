"""The Honeycomb markers that this program placed: one for each rule, dataset and span."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, delete, insert, select

from bk_pipeline.contracts import PlacedMarker
from bk_pipeline.ledger.database import Database
from bk_pipeline.ledger.schema import marked_parts, markers

_COLUMNS = [markers.c[name] for name in PlacedMarker._fields]


class MarkerStore:
    """Records of placed markers. Its methods raise the same errors as those of `Ledger`.

    Hold `Ledger.delivery_lock`, with the place as destination, while placing markers of a day.
    `place` is the host, team and environment.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def placed(self, place: str, *, day: str | None = None) -> list[PlacedMarker]:
        """Return the markers in `place`, of one day or (None) of all, sorted by day."""
        chosen = select(*_COLUMNS).where(markers.c.place == place).order_by(markers.c.day)
        if day is not None:
            chosen = chosen.where(markers.c.day == day)
        with self._database.read() as connection:
            return [PlacedMarker(*row) for row in connection.execute(chosen)]

    def remember(self, place: str, marker: PlacedMarker) -> None:
        """Record a marker, replacing an earlier one of the same rule, dataset and span."""
        with self._database.write() as connection:
            connection.execute(delete(markers).where(*_same(place, marker)))
            connection.execute(insert(markers).values(place=place, **marker._asdict()))

    def forget(self, place: str, marker: PlacedMarker) -> None:
        """Delete the record of a marker."""
        with self._database.write() as connection:
            connection.execute(delete(markers).where(*_same(place, marker)))

    def checked_parts(self, place: str, day: str, rules: str) -> set[str]:
        """Return the parts of `day` whose markers are all placed, for rules with this digest."""
        chosen = select(marked_parts.c.part).where(
            marked_parts.c.place == place, marked_parts.c.day == day, marked_parts.c.rules == rules
        )
        with self._database.read() as connection:
            return set(connection.execute(chosen).scalars())

    def mark_parts_checked(self, place: str, day: str, parts: Iterable[str], rules: str) -> None:
        """Record that all markers of `parts` are placed for rules with this digest.

        Records for other rules are deleted.
        """
        of_day = (marked_parts.c.place == place, marked_parts.c.day == day)
        rows = [{"place": place, "day": day, "part": part, "rules": rules} for part in parts]
        names = [row["part"] for row in rows]
        with self._database.write() as connection:
            connection.execute(delete(marked_parts).where(*of_day, marked_parts.c.rules != rules))
            connection.execute(delete(marked_parts).where(*of_day, marked_parts.c.part.in_(names)))
            if rows:
                connection.execute(insert(marked_parts), rows)


def _same(place: str, marker: PlacedMarker) -> tuple[ColumnElement[bool], ...]:
    return (
        markers.c.place == place,
        markers.c.dataset == marker.dataset,
        markers.c.rule == marker.rule,
        markers.c.trace_id == marker.trace_id,
        markers.c.span_id == marker.span_id,
    )
