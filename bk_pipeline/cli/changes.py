"""`bk-pipeline changes`: what got slower, waits longer, fails more or costs more, and since when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa

from bk_pipeline.analysis.change import COMMIT_DIGITS, Change, row_of
from bk_pipeline.analysis.columns import CHANGES
from bk_pipeline.analysis.sql import Database
from bk_pipeline.app import App
from bk_pipeline.cli.results import refuse_binary_terminal, write_answer
from bk_pipeline.cli.sql import open_database
from bk_pipeline.pipeline.changes import ALL, PERIOD_DAYS, changes_between
from bk_pipeline.settings import Settings
from bk_pipeline.text import counted

MOST_CERTAIN = 0.9999


def changes(
    *,
    since: date | None,
    pipeline: str | None,
    format_: str,
    output: Path | None,
    limit: int | None,
) -> None:
    """Show the changes that began on or after a day, with a sentence for the largest one."""
    refuse_binary_terminal(format_, output)
    app = App(Settings.load())
    with open_database(app) as database:
        sentence, found, last = recent_changes(app, database, since, pipeline)
    write_answer(
        [sentence],
        [_row(one) for one in found],
        table_of(found, last),
        format_=format_,
        output=output,
        limit=limit,
    )


def recent_changes(
    app: App, database: Database, since: date | None, pipeline: str | None
) -> tuple[str, list[Change], date]:
    """Return a sentence about the changes, the changes themselves, and the last stored day."""
    stored = app.spans().parts_by_day()
    oldest, last = (date.fromisoformat(one(stored)) for one in (min, max))
    first = last - timedelta(days=PERIOD_DAYS - 1)
    # A change needs builds before it.
    first = min(first, since - timedelta(days=PERIOD_DAYS // 2)) if since else first
    zone = app.settings.timezone
    found = changes_between(first, last, database=database, zone=zone, pipeline=pipeline or ALL)
    if since:
        found = [one for one in found if one.began_at.astimezone(zone).date() >= since]
    return summary(found, since or max(first, oldest), last, pipeline), found, last


def table_of(found: Sequence[Change], last: date) -> pa.Table:
    """Return the changes with every field."""
    return pa.Table.from_pylist([row_of(one, str(last)) for one in found], CHANGES.schema)


def summary(found: Sequence[Change], since: date, last: date, pipeline: str | None) -> str:
    """Return one sentence: how many changes there are, and the largest that lasts."""
    where = f" in pipelines that match {pipeline}" if pipeline else ""
    worse = [one for one in found if one.worse]
    lasting = [one for one in worse if one.lasts]
    if not worse:
        better = f" ({len(found):,} for the better)" if found else ""
        return (
            f"No change for the worse{where} from {since} to {last}{better}. A change shows when it "
            "has lasted a day and a half, with 20 builds or more in the period."
        )
    text = f"{counted(len(worse), 'change')} for the worse{where} since {since}; "
    if not lasting:
        return f"{text}none of them lasts."
    return f"{text}the largest: {lasting[0].sentence}"


def _confidence(value: float) -> str:
    """Return a confidence in percent; never as certain."""
    return "> 99.99 %" if value > MOST_CERTAIN else f"{value:.2%}".replace("%", " %")


def _row(change: Change) -> dict[str, str]:
    state = "" if not change.recovered_at else f"until {change.recovered_at:%d %b %H:%M}"
    return {
        "pipeline / step": change.subject,
        "what": f"{change.effect} {state}".strip(),
        "before → after": change.values,
        "since (UTC)": f"{change.began_at:%d %b %H:%M}",
        "build": f"#{change.number}",
        "commit": (change.commit or "")[:COMMIT_DIGITS],
        "sure": _confidence(change.confidence),
    }
