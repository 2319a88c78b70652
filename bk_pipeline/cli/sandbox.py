"""`bk-pipeline sandbox`: the stand-ins for Buildkite and Honeycomb, to point a shell at."""

from __future__ import annotations

import os
from datetime import datetime

import click

from bk_pipeline.cli.output import echo
from bk_pipeline.errors import ConfigError
from bk_pipeline.sandbox.server import Sandbox, serve
from bk_pipeline.sandbox.world import World


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8099, show_default=True, help="Port; 0 takes a free one.")
@click.option("--seed", default=1, show_default=True, help="Another seed, another organization.")
@click.option(
    "--days", default=7, show_default=True, type=click.IntRange(1, 366), help="Days of history."
)
@click.option(
    "--builds-per-day",
    default=40,
    show_default=True,
    type=click.IntRange(1, 50_000),
    help="Builds on a working day.",
)
@click.option(
    "--today",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Last day that has builds (UTC). Default: the present day, with new builds as you watch.",
)
def sandbox(
    *, host: str, port: int, seed: int, days: int, builds_per_day: int, today: datetime | None
) -> None:
    """Serve stand-ins for Buildkite and Honeycomb until interrupted.

    A made-up organization with DAYS of history and builds going on as you watch, and a
    Honeycomb that takes what Honeycomb would take. Prints the `export` lines that point a
    shell at it; with those, make dev and bk-pipeline backfill work against it, on data of
    their own. GET /_sandbox/stored tells what has arrived, POST /_sandbox/builds finishes
    another build.
    """
    world = World(
        seed=seed,
        days=days,
        builds_per_day=builds_per_day,
        today=today.date() if today else None,
    )
    stand_in = Sandbox(world)

    def announce(url: str) -> None:
        lines = {**environment(stand_in, url), "DAGSTER_HOME": '"$PWD/.sandbox/.dagster"'}
        for name, value in lines.items():
            echo(f"export {name}={value}")
        echo("# serving until interrupted (Ctrl-C)", err=True)

    try:
        serve(stand_in, host=host, port=port, on_ready=announce)
    except OSError as exc:
        raise ConfigError(
            f"Cannot listen on {host}, port {port}: {os.strerror(exc.errno or 0)}. If another "
            "sandbox is running, end it, or give --port 0 for a free one."
        ) from exc


def environment(stand_in: Sandbox, url: str) -> dict[str, str]:
    """The settings that point everything at `stand_in`, serving at `url`."""
    return {
        "BUILDKITE_API_URL": url,
        "BUILDKITE_API_TOKEN": stand_in.buildkite_token,
        "BUILDKITE_ORGANIZATION_SLUG": stand_in.world.organization.slug,
        "HONEYCOMB_API_ENDPOINT": url,
        "HONEYCOMB_API_KEY": stand_in.honeycomb_key,
        "HONEYCOMB_CONFIGURATION_KEY": stand_in.honeycomb_key,
        "BK_PIPELINE_START_DATE": stand_in.world.first_and_last_day()[0].isoformat(),
    }
