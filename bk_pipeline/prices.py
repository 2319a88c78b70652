"""The TOML file of prices: what a minute of a job costs, by queue, cluster, pipeline or agent tags."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path as FilePath
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bk_pipeline.rules import EXPECTED_ID, Globs, Path, RuleId, read_rules, repeated_ids
from bk_pipeline.spans.costs import CONDITION_COLUMNS, ON_QUEUE, ON_TAG, Price, Prices
from bk_pipeline.spans.timing import to_ns

PRICE = "price"
MAX_PER_MINUTE = 1_000_000
EXPECTED = {
    "id": EXPECTED_ID,
    "currency": "expected the three capital letters of a currency, like USD.",
}


def _day(value: Any) -> date:
    if type(value) is not date:
        raise ValueError("expected a day without quotes, like 2026-01-31")
    return value


class PriceRule(BaseModel):
    """One `[[price]]` of the file. It is for the jobs that meet all conditions.

    Globs are case-sensitive; a leading `!` excludes. `since` is the first day of the price, in the
    time zone of the daily partitions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: RuleId
    per_minute: Annotated[float, Field(ge=0, le=MAX_PER_MINUTE, allow_inf_nan=False, strict=True)]
    since: Annotated[date | None, BeforeValidator(_day)] = None
    queue: Globs | None = None
    cluster: Globs | None = None
    pipeline: Globs | None = None
    tags: dict[str, Globs] = {}

    @property
    def conditions(self) -> dict[str, tuple[str, ...]]:
        """The globs by what they match, as in `Price.conditions`."""
        names = (ON_QUEUE, *CONDITION_COLUMNS)
        found = {name: globs for name in names if (globs := getattr(self, name))}
        return found | {f"{ON_TAG}{key}": globs for key, globs in self.tags.items()}

    def in_zone(self, zone: ZoneInfo) -> Price:
        """Return the price, whose first day begins at midnight in `zone`."""
        since = datetime.combine(self.since, time(), zone) if self.since else None
        return Price(
            self.id,
            abs(self.per_minute),  # not -0.0
            to_ns(since) if since else 0,
            tuple(self.conditions.items()),
        )


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    price: tuple[PriceRule, ...] = ()


def load_prices(path: FilePath, *, zone: ZoneInfo) -> Prices:
    """Read the prices in the file at `path`.

    Args:
        path: The file.
        zone: The time zone of the days in it.

    Raises:
        ConfigError: The file cannot be read or has errors; the message has a line for each.
    """
    file = read_rules(
        path,
        _File,
        PriceRule,
        setting="BK_PIPELINE_COSTS",
        page="docs/cost.md",
        expected=EXPECTED,
        check=_price_errors,
        table=PRICE,
    )
    return Prices(file.currency, tuple(one.in_zone(zone) for one in file.price))


def _price_errors(file: _File) -> Iterator[tuple[Path, str]]:
    """Yield the errors of prices that are well-formed."""
    if not file.price:
        yield (PRICE,), "is missing: add a [[price]] with id and per_minute."
    yield from repeated_ids((one.id for one in file.price), PRICE)
    for number, one in enumerate(file.price):
        first = next((earlier for earlier in file.price[:number] if _covers(earlier, one)), None)
        if first is not None:
            yield (
                (PRICE, number),
                f'never counts, because price "{first.id}" above it matches the same jobs.',
            )


def _covers(earlier: PriceRule, later: PriceRule) -> bool:
    """Return whether `earlier` certainly matches every job that `later` matches."""
    begins = earlier.since is None or (later.since is not None and earlier.since <= later.since)
    return begins and earlier.conditions.items() <= later.conditions.items()
