"""`bk-pipeline flaky`: which steps or tests fail and pass on the same commit, how often, and the cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from bk_pipeline.analysis.queries import query_text
from bk_pipeline.analysis.sql import Database
from bk_pipeline.app import App
from bk_pipeline.cli.results import money, refuse_binary_terminal, seconds, write_answer
from bk_pipeline.cli.sql import open_database, period_of
from bk_pipeline.errors import ConfigError
from bk_pipeline.settings import Settings
from bk_pipeline.text import counted, one_line

LONGEST_NAME = 28
LONGEST_TEST, LONGEST_OF_TEST, LONGEST_SENTENCE = 48, 14, 120
KNOWN_TESTS = """
SELECT count(*) AS suites FROM spans
WHERE day BETWEEN CAST($since AS DATE) AND CAST($until AS DATE) AND name = 'test.suite'
"""

Row = Mapping[str, Any]


def flaky(
    *,
    since: date | None,
    until: date | None,
    pipeline: str,
    branch: str,
    step: str,
    by: str | None,
    tests: bool,
    format_: str,
    output: Path | None,
    limit: int | None,
) -> None:
    """Show the flaky steps of a period, their history by day, week or month, or flaky tests."""
    refuse_binary_terminal(format_, output)
    if tests and by:
        raise ConfigError("--tests has no history: leave out --by.")
    app = App(Settings.load())
    with open_database(app) as database:
        days = period_of(app, since, until)
        filters = {"pipeline": pipeline, "branch": branch, "step": step}
        if tests:
            sentence, found = flaky_tests(database, days, **filters)
        else:
            sentence, found = flaky_steps(database, days, **filters, by=by)
    show = _test if tests else _history if by else _shown
    write_answer(
        [sentence],
        [show(row) for row in found.to_pylist()],
        found,
        format_=format_,
        output=output,
        limit=limit,
    )


def flaky_steps(
    database: Database,
    days: Mapping[str, str],
    pipeline: str = "*",
    branch: str = "*",
    *,
    step: str = "*",
    by: str | None = None,
) -> tuple[str, pa.Table]:
    """Return a sentence about the flaky steps of a period, and a row for each, or for each period.

    Args:
        database: The views.
        days: The first and the last day, `since` and `until`.
        pipeline, branch, step: Globs.
        by: day, week or month, for the history of each flaky step.
    """
    query = f"FROM ({query_text('flaky').rstrip().removesuffix(';')}) WHERE step GLOB $step"
    filters = {"pipeline": pipeline, "branch": branch, "step": step, "by": by or "all"}
    steps = database.table(query, {**days, **filters})
    rows = steps.to_pylist()
    flaky_ones = {_key(row) for row in rows if row["flaky_attempts"]}
    kept = steps.filter(pa.array([_key(row) in flaky_ones for row in rows], pa.bool_()))
    return _summary(rows, days), kept


def flaky_tests(
    database: Database,
    days: Mapping[str, str],
    pipeline: str = "*",
    branch: str = "*",
    *,
    step: str = "*",
) -> tuple[str, pa.Table]:
    """Return a sentence about the flaky tests of a period, and a row for each.

    Args:
        database: The views.
        days: The first and the last day, `since` and `until`.
        pipeline, branch, step: Globs.
    """
    filters = {"pipeline": pipeline, "branch": branch, "step": step, "by": "all"}
    found = database.table(query_text("flaky_tests"), {**days, **filters})
    [known] = database.table(KNOWN_TESTS, days).to_pylist()
    return _test_summary(found.to_pylist(), known, days), found


def _test_summary(rows: Sequence[Row], known: Row, days: Mapping[str, str]) -> str:
    period = f"from {days['since']} to {days['until']}"
    if not known["suites"]:
        return (
            f"No test results are stored {period}. To read them, set BK_PIPELINE_JOB_DETAILS to a "
            'policy file with read = ["tests"], and materialize job_details: docs/inside-jobs.md.'
        )
    if not rows:
        return (
            f"No test was flaky {period}: none that matches failed in an attempt of a job that "
            "passed later on the same commit."
        )
    worst = rows[0]
    return (
        f"{counted(len(rows), 'test')} {'was' if len(rows) == 1 else 'were'} flaky {period}; the "
        f"worst: {_name_of_test(worst, LONGEST_SENTENCE)} of {_name(worst['pipeline'])} / "
        f"{_name(worst['step'])}, which failed {counted(worst['flaky_failures'], 'time')} on "
        f"{counted(worst['flaky_commits'], 'commit')} in jobs that then passed."
    )


def _name_of_test(row: Row, length: int) -> str:
    """Return class and name; of a long name the end."""
    parts = (one_line(part, LONGEST_SENTENCE) for part in (row["class"], row["name"]) if part)
    full = " / ".join(parts)
    return full if len(full) <= length else "…" + full[-(length - 1) :]


def _test(row: Row) -> dict[str, Any]:
    return {
        "pipeline": one_line(row["pipeline"], LONGEST_OF_TEST),
        "step": one_line(row["step"], LONGEST_OF_TEST),
        "test": _name_of_test(row, LONGEST_TEST),
        "flaky": row["flaky_failures"],
        "commits": row["flaky_commits"],
        "other": row["other_failures"],
        "last seen": f"{row['last_seen']:%Y-%m-%d}",
    }


def _key(row: Row) -> tuple[str, str]:
    return row["pipeline"], row["step"]


def _summary(rows: Sequence[Row], days: Mapping[str, str]) -> str:
    period = f"from {days['since']} to {days['until']}"
    steps = len({_key(row) for row in rows})
    if not steps:
        return f"No step passed or failed {period} that matches. Choose others with the options."
    by_step: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["flaky_attempts"]:
            by_step.setdefault(_key(row), []).append(row)
    if not by_step:
        return f"None of {counted(steps, 'step')} was flaky {period}."
    found = [row for of_step in by_step.values() for row in of_step]
    (pipeline, step), worst = next(iter(by_step.items()))
    history = [row for row in rows if _key(row) == (pipeline, step)]
    verb = "was" if len(by_step) == 1 else "were"
    return (
        f"{len(by_step):,} of {counted(steps, 'step')} {verb} flaky {period} and cost "
        f"{_cost(found)}; the worst: {_name(pipeline)} / {_name(step)}, {_worst(worst, history)}."
    )


def _worst(flaky_periods: Sequence[Row], history: Sequence[Row]) -> str:
    """Say how often the worst step was flaky and, if it has a history, how that changed."""
    attempts = sum(row["flaky_attempts"] for row in flaky_periods)
    times = f"which failed {counted(attempts, 'time')}"
    if len(history) == 1:
        return f"{times} on {counted(history[0]['flaky_commits'], 'commit')} and then passed"
    first, last = history[0], history[-1]
    return (
        f"{times} and then passed: {_percent(first['flaky_rate'])} of the attempts from "
        f"{first['period']}, {_percent(last['flaky_rate'])} from {last['period']}"
    )


def _cost(rows: Sequence[Row]) -> str:
    minutes = sum(row["minutes_lost"] for row in rows)
    shown = f"{minutes:,.0f} agent minutes" if minutes >= 1 else "less than an agent minute"
    currencies = {row["currency"] for row in rows if row["cost"] is not None}
    if len(currencies) == 1:
        amount = sum(row["cost"] for row in rows if row["cost"] is not None)
        shown += f" ({amount:,.2f} {currencies.pop()})"
    return shown


def _name(text: str) -> str:
    return one_line(text, LONGEST_NAME)


def _shown(row: Row) -> dict[str, Any]:
    """Return the columns for reading."""
    return {
        "pipeline": _name(row["pipeline"]),
        "step": _name(row["step"]),
        "flaky": f"{row['flaky_attempts']:,}/{row['attempts']:,}",
        "rate": _percent(row["flaky_rate"]),
        "before": _percent(row["flaky_rate_before"]),
        "last 7 d": _percent(row["flaky_rate_7d"]),
        "commits": row["flaky_commits"],
        "minutes": round(row["minutes_lost"]),
        "cost": money(row),
        "delay": seconds(row["delay_p50_s"]),
        "last seen": f"{row['last_seen']:%Y-%m-%d}",
        "after it": row["attempts_since"],
    }


def _history(row: Row) -> dict[str, Any]:
    return {
        "pipeline": _name(row["pipeline"]),
        "step": _name(row["step"]),
        "from": row["period"].isoformat(),
        "attempts": row["attempts"],
        "flaky": row["flaky_attempts"],
        "rate": _percent(row["flaky_rate"]),
        "commits": row["flaky_commits"],
        "minutes": round(row["minutes_lost"]),
        "cost": money(row),
    }


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.1%}"
