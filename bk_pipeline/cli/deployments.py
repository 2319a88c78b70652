"""`bk-pipeline deployments`: DORA's four keys for each service and environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from bk_pipeline.analysis.deployments import (
    DEPLOYMENT,
    FAILED,
    SUCCEEDED,
    Deployment,
    four_keys,
    table_of_deployments,
)
from bk_pipeline.app import App
from bk_pipeline.cli.results import money, refuse_binary_terminal, seconds, write_answer
from bk_pipeline.cli.sql import period_of, require_spans
from bk_pipeline.errors import ConfigError
from bk_pipeline.pipeline.deployments import find_deployments
from bk_pipeline.settings import Settings
from bk_pipeline.text import counted, matches, one_line

LONGEST_NAME, LONGEST_COMMIT = 24, 9

Row = Mapping[str, Any]


def deployments(
    *,
    since: date | None,
    until: date | None,
    service: str,
    environment: str,
    by: str | None,
    each: bool,
    format_: str,
    output: Path | None,
    limit: int | None,
) -> None:
    """Show the four keys of a period, or the single deployments."""
    if each and by:
        raise ConfigError("--by does not go with --list.")
    refuse_binary_terminal(format_, output)
    app = App(Settings.load())
    rules = app.deployment_rules()
    if rules is None:
        raise ConfigError(
            "BK_PIPELINE_DEPLOYMENTS is not set. Write a file of rules that say what is a "
            "deployment (docs/deployments.md has ready ones), and set it to its path."
        )
    require_spans(app)
    days = period_of(app, since, until)
    first, last = (date.fromisoformat(days[name]) for name in ("since", "until"))
    result = find_deployments(first, last, spans=app.spans(), rules=rules)
    found = [
        one
        for one in result.deployments
        if matches(one.service, (service,)) and matches(one.environment, (environment,))
    ]
    # Days before the first stored one are not days without deployments.
    covered = (date.fromisoformat(min(result.days, default=days["since"])), last)
    if each:
        table = table_of_deployments(found)
        show = _listed
    else:
        table = pa.Table.from_pylist(four_keys(found, covered, by=by, zone=app.settings.timezone))
        show = _shown if by is None else _history
    write_answer(
        [_summary(found, days, (covered[1] - covered[0]).days + 1)],
        [show(row) for row in table.to_pylist()],
        table,
        format_=format_,
        output=output,
        limit=limit,
    )


def _summary(found: Sequence[Deployment], days: Mapping[str, str], covered: int) -> str:
    period = f"from {days['since']} to {days['until']}"
    if not found:
        return (
            f"The rules of BK_PIPELINE_DEPLOYMENTS found no deployment {period} that matches. "
            "Choose others with the options, or see docs/deployments.md for the rules."
        )
    deployed = [one for one in found if one.kind == DEPLOYMENT]
    succeeded = sum(one.outcome == SUCCEEDED for one in deployed)
    names = {one.service for one in found}, {one.environment for one in found}
    services, environments = (
        _name(min(some)) if len(some) == 1 else f"{len(some):,} {noun}"
        for some, noun in zip(names, ("services", "environments"), strict=True)
    )
    text = f"{counted(succeeded, 'successful deployment')} of {services} to {environments} {period}"
    text += f", {succeeded / covered:.1f} a day"
    leads = [one.lead_time_s for one in found if one.lead_time_s is not None]
    if leads:
        text += f"; a change took {seconds(median(leads))} (median) to get there"
    failures = sum(one.change_failed for one in found)
    if deployed:
        text += f"; {failures / len(deployed):.0%} of changes failed"
    restores = [one.restore_s for one in found if one.restore_s is not None]
    if restores:
        text += f", and it took {seconds(median(restores))} to restore"
    return f"{text}."


def _name(text: str | None) -> str:
    return one_line(text or "", LONGEST_NAME)


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.1%}"


def _shown(row: Row) -> dict[str, Any]:
    """Return the four keys for reading."""
    now = "failed" if row["last_outcome"] == FAILED else "ok"
    return {
        "service": _name(row["service"]),
        "environment": _name(row["environment"]),
        "deployed": f"{row['succeeded']:,}/{row['deployments']:,}",
        "per day": f"{row['deployments_per_day']:.2f}",
        "lead time": seconds(row["lead_time_p50_s"]),
        "failed": _percent(row["change_failure_rate"]),
        "rollbacks": row["rollbacks"],
        "restored in": seconds(row["restore_p50_s"]),
        "last": f"{row['last_finished_at']:%Y-%m-%d} {now}",
        "cost": money(row),
    }


def _history(row: Row) -> dict[str, Any]:
    shown = _shown(row)
    del shown["last"]
    return {"from": row["period"].isoformat(), **shown}


def _listed(row: Row) -> dict[str, Any]:
    result = row["outcome"] if row["kind"] == DEPLOYMENT else f"rollback {row['outcome']}"
    return {
        "finished, UTC": f"{row['finished_at']:%Y-%m-%d %H:%M}",
        "service": _name(row["service"]),
        "environment": _name(row["environment"]),
        "result": result,
        "commit": (row["commit"] or "")[:LONGEST_COMMIT],
        "build": f"{_name(row['pipeline'])}#{row['build_number'] or ''}",
        "lead time": seconds(row["lead_time_s"]),
        "from": row["lead_time_from"],
        "restored": seconds(row["restore_s"]),
        "cost": money(row),
    }
