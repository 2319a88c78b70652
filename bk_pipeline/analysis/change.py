"""A change of a pipeline or step: its values, its row in the table `changes`, and its sentences.

Imports nothing heavy: what reads stored changes does not need what finds them (`changes.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

from bk_pipeline.text import duration, one_line

# A change that is found again another night may begin a few builds off.
SAME_CHANGE = timedelta(days=3)
LONGEST_NAME = 60
COMMIT_DIGITS = 7
MS_PER_S = 1_000
# Measures, with what is said of a change for the worse and for the better.
WORDS = {
    "duration_s": ("takes {size} longer", "takes {size} less time"),
    "queue_s": ("waits {size} longer for agents", "waits {size} less for agents"),
    "failure_rate": ("fails {size} more often", "fails {size} less often"),
    "cost": ("costs {size} more", "costs {size} less"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """One change. A row of the table `changes` has the same columns; see `columns.CHANGES`.

    Attributes:
        step: None for whole builds.
        began_at: When the first build on the new side was created, in UTC.
        recovered_at: When it went back to what it was before, if it did.
    """

    pipeline: str
    step: str | None
    measure: str
    before: float
    after: float
    change: float
    confidence: float
    began_at: datetime
    number: int
    commit: str | None
    branch: str | None
    build_id: str | None
    url: str | None
    builds_before: int
    builds_after: int
    recovered_at: datetime | None
    decided_by: str

    @property
    def worse(self) -> bool:
        """Whether it is for the worse: less is better for all measures."""
        return self.after > self.before

    @property
    def lasts(self) -> bool:
        """Whether it is for the worse and has not ended."""
        return self.worse and self.recovered_at is None

    @property
    def subject(self) -> str:
        """The pipeline and the step, as in `web / test`."""
        return " / ".join(one_line(one, LONGEST_NAME) for one in (self.pipeline, self.step) if one)

    @property
    def values(self) -> str:
        """The values before and after, as in `5 m 12 s → 6 m 41 s`."""
        return " → ".join(shown(self.measure, one) for one in (self.before, self.after))

    @property
    def size(self) -> str:
        """How large it is, as in `29 %` or, for failure rates, `29 points`."""
        unit = "points" if self.measure == "failure_rate" else "%"
        return f"{abs(self.change) * 100:.0f} {unit}"

    @property
    def effect(self) -> str:
        """What it means, as in `takes 29 % longer`."""
        return WORDS[self.measure][not self.worse].format(size=self.size)

    @property
    def since(self) -> str:
        """The first build, as in `build #4182 (abc1234, Tue 24 Nov 14:02 UTC)`."""
        commit = f"{self.commit[:COMMIT_DIGITS]}, " if self.commit else ""
        return f"build #{self.number} ({commit}{self.began_at:%a %d %b %H:%M} UTC)"

    @property
    def sentence(self) -> str:
        """All of it, as in `web / test takes 29 % longer since build #4182 (…)`."""
        return f"{self.subject} {self.effect} since {self.since}"


def shown(measure: str, value: float) -> str:
    """Return a value of a measure with its unit."""
    if measure == "failure_rate":
        return f"{value * 100:.1f} %"
    if measure == "cost":
        return f"{value:,.2f}" if value >= 1 else f"{value:.3g}"
    return duration(round(value * MS_PER_S))


NAMES = tuple(one.name for one in fields(Change))


def row_of(change: Change, day: str) -> dict[str, Any]:
    """Return the row of the table `changes`."""
    return {"day": day, **asdict(change), "worse": change.worse}


def change_of(row: Mapping[str, Any]) -> Change:
    """Return the change in a row of the table `changes`."""
    return Change(**{name: row[name] for name in NAMES})


def with_first_builds(found: Iterable[Change], earlier: Sequence[Change]) -> list[Change]:
    """Return the changes with the first builds that they had when they were found before.

    With another month of builds, the first build may be found to be another one, a few builds off.
    What refers to a change must not see a second one for that.
    """
    return [_with_first_build(one, earlier) for one in found]


def _with_first_build(change: Change, earlier: Sequence[Change]) -> Change:
    def distance(other: Change) -> timedelta:
        return abs(other.began_at - change.began_at)

    same = [
        one
        for one in earlier
        if (one.pipeline, one.step, one.measure, one.worse)
        == (change.pipeline, change.step, change.measure, change.worse)
        and distance(one) <= SAME_CHANGE
    ]
    if not same:
        return change
    known = min(same, key=distance)
    names = ("began_at", "number", "commit", "branch", "build_id", "url")
    return replace(change, **{name: getattr(known, name) for name in names})
