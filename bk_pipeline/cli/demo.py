"""`bk-pipeline demo`, the whole pipeline on simulated services, and `bk-pipeline sandbox`, which
serves them.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Any

from rich.progress import track

from bk_pipeline.app import App
from bk_pipeline.cli.output import Console, echo
from bk_pipeline.cli.trace import LEGEND, waterfall
from bk_pipeline.defs.daily_asset import DAYS_PER_RUN
from bk_pipeline.defs.home import temporary_instance
from bk_pipeline.defs.runs import Backfill
from bk_pipeline.deliver.delivery import Delivery
from bk_pipeline.errors import ConfigError, FatalError
from bk_pipeline.pipeline import Extraction, Transformation
from bk_pipeline.private_files import make_folder
from bk_pipeline.sandbox.server import Sandbox, running, serve
from bk_pipeline.sandbox.world import Slowdown, World
from bk_pipeline.settings import Settings
from bk_pipeline.spans.table import rows
from bk_pipeline.text import counted
from bk_pipeline.units import NS_PER_HOUR
from bk_pipeline.window import day_keys


def sandbox(
    *, host: str, port: int, seed: int, days: int, builds_per_day: int, today: datetime | None
) -> None:
    """Serve local stand-ins for Buildkite and Honeycomb until interrupted."""
    world = World(
        seed=seed,
        days=days,
        builds_per_day=builds_per_day,
        today=today.date() if today else None,
        limited_agents=True,
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


# A demo's folder has this file, so that the next one may replace it.
MADE_BY_DEMO = ".bk_pipeline-demo"
# How long ago a step of the demo's builds became slower.
SLOWER_FOR = timedelta(days=12)
# The report of a day takes longer than its spans.
REPORTED_DAYS = 3
# Number of spans of a build that fits a screen and still shows something.
SHOWN_SPANS = range(12, 32)


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of a demo. `duplicates` and `requests` are counted by the sandbox."""

    days: int
    builds: int
    jobs: int
    spans: int
    events_accepted: int
    events_rejected: int
    duplicates: int
    requests: int
    seconds: float


def demo(days: int, builds_per_day: int, as_json: bool, keep: Path | None) -> None:
    """Try the pipeline on a local sandbox: no account needed, and no data leaves this machine."""
    stand_in = Sandbox(_world(days, builds_per_day))
    with _data_folder(keep) as folder, running(stand_in) as url:
        settings = Settings.of(**environment(stand_in, url), BK_PIPELINE_DATA_DIR=str(folder))
        app = App(settings, retries=0)
        numbers = _backfill(stand_in, app, days, quiet=as_json)
        if as_json:
            echo(json.dumps(asdict(numbers)))
        else:
            _tell(numbers, _example_build(app), keep)
    stored = stand_in.honeycomb.event_count
    if numbers.events_rejected or numbers.duplicates or numbers.events_accepted != stored:
        raise FatalError(
            f"{numbers.events_accepted} events were accepted, {numbers.events_rejected} rejected; "
            f"the stand-in holds {stored}, {numbers.duplicates} of them twice."
        )


def _world(days: int, builds_per_day: int) -> World:
    """Return a world with something to find: too few agents, and a step that became slower."""
    since = datetime.now(UTC).date() - SLOWER_FOR
    return World(
        days=days,
        builds_per_day=builds_per_day,
        limited_agents=True,
        slowdown=Slowdown("api", "test", factor=1.5, since=since),
    )


@contextmanager
def _data_folder(keep: Path | None) -> Iterator[Path]:
    """Open an empty folder for the demo's data: `keep`, or one that is deleted in the end.

    Raises:
        ConfigError: `keep` has files that no demo made.
        FatalError: `keep` cannot be written.
    """
    if keep is None:
        with TemporaryDirectory(prefix="bk_pipeline-demo-") as folder:
            yield Path(folder)
        return
    mark = keep / MADE_BY_DEMO
    try:
        if keep.exists() and any(keep.iterdir()):
            if not mark.exists():
                raise ConfigError(
                    f"{keep} has files that no demo made. Name another folder with --keep."
                )
            shutil.rmtree(keep)
        make_folder(keep)
        mark.touch()
    except OSError as exc:
        raise FatalError(f"Cannot write {keep}: {exc.strerror}.") from exc
    yield keep


def _backfill(stand_in: Sandbox, app: App, days: int, *, quiet: bool) -> Numbers:
    """Materialize the `days` before today.

    Raises:
        FatalError: A day failed.
    """
    began = time.monotonic()
    first, _ = stand_in.world.first_and_last_day()
    keys = day_keys(first, first + timedelta(days=days - 1))
    with temporary_instance() as instance:
        backfill = Backfill(app, instance=instance)
        work = backfill.deliver(keys, days_per_run=DAYS_PER_RUN)
        for run in track(
            work, counted(days, "day"), total=days, disable=quiet, console=Console(stderr=True)
        ):
            if run.error:
                raise FatalError(f"{run.day}: {run.error}")
        for report in backfill.report(keys[-REPORTED_DAYS:]):
            if report.failed:
                raise FatalError(f"{report.days[-1]}: {report.failed[0].sentence}")
    results = app.results
    made = [one.summary for one in results.of("spans", Transformation).values()]
    sent = sum(results.of("honeycomb_events", Delivery).values(), Delivery())
    return Numbers(
        days=days,
        builds=sum(one.stored for one in results.of("raw_builds", Extraction).values()),
        jobs=sum(one.jobs for one in made),
        spans=sum(one.spans for one in made),
        events_accepted=sent.accepted,
        events_rejected=sent.rejected,
        duplicates=stand_in.honeycomb.duplicate_count,
        requests=stand_in.buildkite.request_count + stand_in.honeycomb.request_count,
        seconds=round(time.monotonic() - began, 3),
    )


def _tell(numbers: Numbers, spans: list[dict[str, Any]], keep: Path | None) -> None:
    console = Console()
    links = numbers.events_accepted - numbers.spans
    console.print(
        f"{counted(numbers.days, 'day')}, {counted(numbers.builds, 'build')} with {counted(numbers.jobs, 'job')} became "
        f"{counted(numbers.spans, 'span')} in {numbers.seconds:.1f} s.\n"
        f"Honeycomb's stand-in accepted {counted(numbers.events_accepted, 'event')} ({links:,} of "
        f"them links between traces), rejected {numbers.events_rejected:,}, and holds "
        f"{numbers.duplicates:,} twice. {counted(numbers.requests, 'request')} in all.\n",
        highlight=False,
    )
    if spans:
        console.print("One of the builds:\n")
        console.print(waterfall(spans, width=console.width))
        console.print(f"\n{LEGEND}\n", highlight=False)
        if keep:
            # Not wrapped, so that the lines can be pasted.
            console.print(_questions(keep, spans[0]), highlight=False, soft_wrap=True)
        console.print(
            "To see your own builds, copy .env.example to .env and fill it in. Then run\n"
            "  .venv/bin/bk-pipeline doctor    shows what is missing\n"
            "  make dev                        serves the Dagster UI",
            highlight=False,
        )


def _questions(keep: Path, root: Mapping[str, Any]) -> str:
    """Return the commands that answer questions about the data that a demo kept."""
    slug = root["resource"]["buildkite.pipeline.slug"]
    name = f"{slug}#{root['attributes']['buildkite.build.number']}"
    commands = {
        f"trace {name}": "why did this build take so long?",
        "changes": "what got slower, and since which build?",
        "queues --agents +2": "would more agents help?",
        "flaky": "which steps fail at random, and what does it cost?",
        "report --period month": "all of it with charts, in report.html",
    }
    width = max(map(len, commands))
    lines = [f"  .venv/bin/bk-pipeline {one:<{width}}  {why}" for one, why in commands.items()]
    return "\n".join(
        [
            f"The data stays in {keep} until the next demo. Ask it:",
            f"  export BK_PIPELINE_DATA_DIR={quote(str(keep))}",
            *lines,
            "",
        ]
    )


def _example_build(app: App) -> list[dict[str, Any]]:
    """Return the spans of the most varied build that fits the screen."""
    store = app.spans()
    traces: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for day in app.raw().days()[-1:]:
        for part in store.parts(day):
            for table in store.tables(day, part):
                for span in rows(table):
                    traces[span["trace_id"]].append(span)
    fitting = [
        spans
        for spans in traces.values()
        if len(spans) in SHOWN_SPANS
        and spans[0]["end_unix_nano"] - spans[0]["start_unix_nano"] < NS_PER_HOUR
    ]
    return max(fitting or traces.values(), key=_variety, default=[])


def _variety(spans: list[dict[str, Any]]) -> tuple[int, int]:
    kinds = {(span["name"], span["status"]) for span in spans}
    retried = sum(bool(span["attributes"].get("buildkite.job.retried")) for span in spans)
    return len(kinds) + min(retried, 1), len(spans)
