"""The report of a benchmark: a table, and named figures, some of which have bounds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound of a figure: `least` or `most`, inclusive."""

    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        """Return whether `value` is within the bound."""
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    def __str__(self) -> str:
        least = [] if self.least is None else [f"at least {number(self.least)}"]
        most = [] if self.most is None else [f"at most {number(self.most)}"]
        return ", ".join([*least, *most])


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. Its name starts with the benchmark's: `transform.spans_per_s`."""

    name: str
    value: float
    needed: Bound | None = None

    @property
    def holds(self) -> bool:
        """Return whether the figure is within its bound, if it has one."""
        return self.needed is None or self.needed.holds(self.value)


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a benchmark. `rows` hold text for `columns`; `notes` describe the method."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    figures: list[Figure]
    notes: list[str] = field(default_factory=list)


def number(value: float) -> str:
    """Format a number with as many digits as are readable."""
    if value == int(value) or abs(value) >= 1_000:  # noqa: PLR2004  # from there on, whole ones
        return f"{value:,.0f}"
    return f"{value:.3g}"
