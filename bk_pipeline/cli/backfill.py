"""`bk-pipeline backfill`: days through Dagster, in this process."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bk_pipeline.defs.resources import Services
from bk_pipeline.defs.runs import DayRun, local_instance, materialize_days
from bk_pipeline.errors import ConfigError, FatalError
from bk_pipeline.settings import Settings
from bk_pipeline.window import day_key, day_keys

# Asset and label of the metadata that are added up.
MADE = (("raw_builds", "builds stored"), ("spans", "dagster/partition_row_count"))
SENT = ("accepted", "rejected", "too old")
NOWHERE = (
    "No destination is configured: spans were made and stored, none sent. "
    "Set HONEYCOMB_API_KEY or OTEL_EXPORTER_OTLP_ENDPOINT."
)

DAY = click.DateTime(formats=["%Y-%m-%d"])


@click.command()
@click.option("--from", "first", type=DAY, required=True, help="First day, like 2026-11-01.")
@click.option("--to", "last", type=DAY, required=True, help="Last day, included.")
@click.option("--full-refresh", is_flag=True, help="Read the days anew even if they are stored.")
def backfill(first: datetime, last: datetime, full_refresh: bool) -> None:
    """Take days from Buildkite to every destination that is configured.

    Each day is materialized in Dagster, one after the other, in this process; the Dagster
    UI shows them if DAGSTER_HOME is the same. What a day has delivered already is not sent
    again, so an interrupted backfill can simply be started again.
    """
    settings = Settings.load()
    settings.require_buildkite()
    services = Services(settings, retries=0)
    days = _days(first.date(), last.date(), settings, services)
    loaders = [one.asset for one in services.destinations()]
    failed: list[DayRun] = []
    total: Counter[tuple[str, str]] = Counter()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        local_instance() as instance,
        Progress(*columns, TimeRemainingColumn(), console=console) as bar,
    ):
        task = bar.add_task(days[0], total=len(days))
        for run in materialize_days(services, days, instance=instance, full_refresh=full_refresh):
            if run.error:
                failed.append(run)
                console.print(f"{run.day}: {run.error}", style="red", markup=False)
            for asset, label in (*MADE, *((one, label) for one in loaders for label in SENT)):
                total[asset, label] += run.count(asset, label)
            bar.update(task, advance=1, description=f"{run.day} · {_made(total)}")
    click.echo(f"{len(days) - len(failed)} of {len(days)} days: {_made(total)}.")
    for asset in loaders:
        counts = ", ".join(f"{total[asset, label]:,} {label}" for label in SENT)
        click.echo(f"{asset}: {counts}.")
    _explain(total, settings)
    if not loaders:
        click.echo(NOWHERE, err=True)
    if failed:
        raise FatalError(
            f"{len(failed)} of {len(days)} days failed; the first: {failed[0].day}: "
            f"{failed[0].error}"
        )


def _made(total: Counter[tuple[str, str]]) -> str:
    builds, spans = (total[one] for one in MADE)
    return f"{builds:,} new builds, {spans:,} spans made"


def _explain(total: Counter[tuple[str, str]], settings: Settings) -> None:
    if any(total[key] for key in total if key[1] == "rejected"):
        click.echo("What was rejected is not sent again; bk-pipeline ledger shows the reasons.")
    if any(total[key] for key in total if key[1] == "too old"):
        click.echo(
            f"Spans older than {settings.honeycomb_max_age_days} days were not sent: Honeycomb "
            "would bill them and never show them. BK_PIPELINE_HONEYCOMB_MAX_AGE_DAYS=0 sends "
            "them all the same."
        )


def _days(first: date, last: date, settings: Settings, services: Services) -> list[str]:
    if last < first:
        raise ConfigError(f"--to {last} lies before --from {first}. Give the earlier day first.")
    if first < settings.start_date:
        raise ConfigError(
            f"--from {first} lies before the first day, {settings.start_date}. "
            "Set BK_PIPELINE_START_DATE to an earlier one."
        )
    today = day_key(services.clock.now(), settings.timezone)
    if last.isoformat() > today:
        raise ConfigError(f"--to {last} lies ahead; today is {today}. Give {today} or earlier.")
    return day_keys(first, last)
