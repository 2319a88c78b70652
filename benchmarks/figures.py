"""What a benchmark reports: a table for people, and named figures, some of which must hold."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure has to be. `least` or `most`, the bound itself included."""

    least: float | None = None
    most: float | None = None

    def holds(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    def __str__(self) -> str:
        least = [] if self.least is None else [f"at least {number(self.least)}"]
        most = [] if self.most is None else [f"at most {number(self.most)}"]
        return ", ".join([*least, *most])


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. Its name begins with the benchmark's: `transform.spans_per_s`."""

    name: str
    value: float
    needed: Bound | None = None

    @property
    def holds(self) -> bool:
        return self.needed is None or self.needed.holds(self.value)


@dataclass(frozen=True, slots=True)
class Report:
    """One benchmark's outcome. `rows` are what `columns` name, as text; `notes` say how."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    figures: list[Figure]
    notes: list[str] = field(default_factory=list)


def number(value: float) -> str:
    """With as many digits as a person wants to see."""
    if value == int(value) or abs(value) >= 1_000:  # noqa: PLR2004  # from there on, whole ones
        return f"{value:,.0f}"
    return f"{value:.3g}"
