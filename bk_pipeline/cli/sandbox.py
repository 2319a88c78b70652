"""`bk-pipeline sandbox`: serve local stand-ins for Buildkite and Honeycomb."""

from __future__ import annotations

import os
from datetime import datetime

from bk_pipeline.cli.output import echo
from bk_pipeline.errors import ConfigError
from bk_pipeline.sandbox.server import Sandbox, serve
from bk_pipeline.sandbox.world import World


def sandbox(
    *, host: str, port: int, seed: int, days: int, builds_per_day: int, today: datetime | None
) -> None:
    """Serve local stand-ins for Buildkite and Honeycomb until interrupted."""
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
            "sandbox is running, stop it, or pass --port 0 for a free port."
        ) from exc


def environment(stand_in: Sandbox, url: str) -> dict[str, str]:
    """Return the environment variables that direct bk-pipeline to `stand_in` at `url`."""
    return {
        "BUILDKITE_API_URL": url,
        "BUILDKITE_API_TOKEN": stand_in.buildkite_token,
        "BUILDKITE_ORGANIZATION_SLUG": stand_in.world.organization.slug,
        "HONEYCOMB_API_ENDPOINT": url,
        "HONEYCOMB_API_KEY": stand_in.honeycomb_key,
        "HONEYCOMB_CONFIGURATION_KEY": stand_in.honeycomb_key,
        "BK_PIPELINE_START_DATE": stand_in.world.first_and_last_day()[0].isoformat(),
    }
