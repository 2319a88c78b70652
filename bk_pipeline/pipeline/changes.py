"""Find changes: of durations, waits, failure rates and costs, in the builds of the last 30 days."""

from __future__ import annotations

from datetime import date, timedelta, tzinfo
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

from bk_pipeline import __version__
from bk_pipeline.analysis.change import Change, change_of, row_of, with_first_builds
from bk_pipeline.analysis.columns import CHANGES
from bk_pipeline.errors import StorageError
from bk_pipeline.pipeline.days import retry_past_damage
from bk_pipeline.store.spans import SpanStore, StatsStore
from bk_pipeline.window import day_keys

if TYPE_CHECKING:
    from bk_pipeline.analysis.sql import Database

# As long as a change is news. Months would have trends, and a build's hour of the week has to
# occur a few times.
PERIOD_DAYS = 30
MEMORY_MIB = 1024
ALL = "*"


def changes_between(
    first: date, last: date, *, database: Database, zone: tzinfo, pipeline: str = ALL
) -> list[Change]:
    """Return the changes in the builds from `first` to `last` of pipelines that match a glob."""
    # pandas, scipy and ruptures take seconds to load.
    from bk_pipeline.analysis.changes import changes_in  # noqa: PLC0415
    from bk_pipeline.analysis.queries import query_text  # noqa: PLC0415

    parameters = {"since": first.isoformat(), "until": last.isoformat(), "pipeline": pipeline}
    return changes_in(database.table(query_text("changes"), parameters), zone=zone)


def find_changes(
    day: str, *, spans: SpanStore, stats: StatsStore, zone: tzinfo, memory_mib: int = MEMORY_MIB
) -> list[Change]:
    """Find the changes of the 30 days that end with `day`, store them, and return them.

    A change that was stored before keeps its first build.

    Raises:
        StorageError: The store cannot be read or written.
    """
    import pyarrow as pa  # noqa: PLC0415  # only runs need it

    from bk_pipeline.analysis.sql import Database, UnreadableSpans  # noqa: PLC0415

    source = _source(day, spans)
    datasets = spans.datasets()
    found: list[Change] = []
    if source:
        last = date.fromisoformat(day)
        try:
            with Database(datasets.single, datasets.several, memory_mib=memory_mib) as database:
                found = changes_between(_first(last), last, database=database, zone=zone)
        except UnreadableSpans as exc:
            name = spans.damaged_file() or "The span table"
            raise StorageError(
                f"{name} is damaged ({exc}). Materialize the spans of its day to rebuild it."
            ) from exc
    found = with_first_builds(found, _known(day, stats))
    rows = [row_of(one, day) for one in found]
    stats.write(CHANGES.name, day, pa.Table.from_pylist(rows, CHANGES.schema), source=source)
    return found


def known_changes(
    last: date, *, database: Database, spans: SpanStore, stats: StatsStore, zone: tzinfo
) -> list[Change]:
    """Return the changes of the 30 days that end with `last`: the stored ones, if they are current.

    Raises:
        StorageError: The store cannot be read.
    """
    day = last.isoformat()
    if day in stats.days(CHANGES.name) and not changes_are_stale(day, spans=spans, stats=stats):
        return [change_of(row) for row in stats.read(CHANGES.name, day).to_pylist()]
    return changes_between(_first(last), last, database=database, zone=zone)


def changes_are_stale(day: str, *, spans: SpanStore, stats: StatsStore) -> bool:
    """Whether the changes stored for `day` were found in other spans than its 30 days have now."""
    current = retry_past_damage(lambda: _source(day, spans), [])
    known = retry_past_damage(lambda: stats.source(CHANGES.name, day), [])
    return bool(current) and known != current


class StoredChanges:
    """The changes that were found and stored. Each table is read once."""

    def __init__(self, stats: StatsStore, zone: tzinfo) -> None:
        self._stats, self._zone = stats, zone
        self._read: dict[str, list[Change]] = {}

    @cached_property
    def days(self) -> list[str]:
        """The days for which changes were looked for, sorted."""
        return self._stats.days(CHANGES.name)

    def regressions(self, day: str) -> list[Change]:
        """Return the changes for the worse that began on `day`, as they were last found.

        One that was found once and later no more is among them.
        """
        last = (date.fromisoformat(day) + timedelta(days=PERIOD_DAYS - 1)).isoformat()
        found = {
            (change.step, change.measure, change.build_id): change
            for one in self.days
            if day <= one <= last
            for change in self._of(one)
            if change.worse and self._day(change) == day
        }
        return list(found.values())

    def regression_days(self, day: str) -> list[str]:
        """Return the days on which the changes for the worse began that are stored for `day`."""
        if day not in self.days:
            return []
        return sorted({self._day(one) for one in self._of(day) if one.worse})

    def _of(self, day: str) -> list[Change]:
        if day not in self._read:
            self._read[day] = _stored(day, self._stats)
        return self._read[day]

    def _day(self, change: Change) -> str:
        return change.began_at.astimezone(self._zone).date().isoformat()


def _stored(day: str, stats: StatsStore) -> list[Change]:
    return [change_of(row) for row in stats.read(CHANGES.name, day).to_pylist()]


def _first(last: date) -> date:
    return last - timedelta(days=PERIOD_DAYS - 1)


def _known(day: str, stats: StatsStore) -> list[Change]:
    """Return the changes stored for the days of the period that ends with `day`."""
    first = _first(date.fromisoformat(day)).isoformat()
    days = [one for one in stats.days(CHANGES.name) if first <= one <= day]
    return [change for one in days for change in _stored(one, stats)]


def _source(day: str, spans: SpanStore) -> str:
    """Return 16 hex digits that identify the parts of the 30 days; empty if there are none."""
    last = date.fromisoformat(day)
    names = [
        f"{one}/{part.name}" for one in day_keys(_first(last), last) for part in spans.parts(one)
    ]
    return sha256("\0".join([__version__, *names]).encode()).hexdigest()[:16] if names else ""
