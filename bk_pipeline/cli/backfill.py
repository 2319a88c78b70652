"""`bk-pipeline backfill`: days through Dagster, in this process."""

from __future__ import annotations

import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

from bk_pipeline.app import App
from bk_pipeline.cli.output import Console, echo
from bk_pipeline.cli.progress import Bar, Log, shown_on
from bk_pipeline.cli.signals import summing_up
from bk_pipeline.defs.home import local_instance
from bk_pipeline.defs.lost_runs import end_lost_runs
from bk_pipeline.defs.runs import Backfill, DayRun
from bk_pipeline.deliver.delivery import Delivery
from bk_pipeline.errors import (
    AccessDenied,
    ConfigError,
    FatalError,
    NotFound,
    PipelineError,
    RetryableError,
    StorageError,
    TokenRefused,
)
from bk_pipeline.honeycomb.placing import Placement
from bk_pipeline.pipeline import Extraction, Results, Transformation
from bk_pipeline.settings import Settings
from bk_pipeline.text import counted
from bk_pipeline.window import day_key, day_keys

REMARKS_SHOWN = 10
NOWHERE = (
    "No destination is configured: spans were made and stored, none sent. "
    "Set HONEYCOMB_API_KEY or OTEL_EXPORTER_OTLP_ENDPOINT."
)

# What fails one day with these fails every other too.
OF_EVERY_DAY = (ConfigError, TokenRefused, AccessDenied, NotFound, StorageError)
# So many days in a row that failed, and it is not the days.
MOST_IN_A_ROW = 3
ON_INTERRUPT = 130


def backfill(first: date, last: date, full_refresh: bool, resend: bool) -> None:
    """Take days from Buildkite to every destination that is configured."""
    settings = Settings.load()
    settings.require_buildkite()
    days = _days(first, last, settings, App(settings))
    console = Console(stderr=True)
    shown = shown_on(console, len(days))
    app = App(settings, retries=0, progress=shown.tell, on_wait=shown.wait)
    outcome = Outcome(days, [one.asset for one in app.destinations()], app.results)
    with (
        summing_up(lambda: _sum_up(outcome, settings)),
        shown.shown(),
        local_instance() as instance,
        _sigterm_as_sigint(),
    ):
        end_lost_runs(instance)
        try:
            work = Backfill(app, instance=instance, full_refresh=full_refresh, resend=resend)
            _run(work, outcome, shown)
        except KeyboardInterrupt:
            outcome.interrupted = True
        except PipelineError as exc:
            outcome.broken_by = exc
    _sum_up(outcome, settings)
    _conclude(outcome)


def _run(work: Backfill, outcome: Outcome, shown: Bar | Log) -> None:
    """Deliver the days, then make the statistics of those that have spans."""
    with_spans = []
    for run in work.deliver(outcome.days):
        outcome.add(run)
        if run.has_spans:
            with_spans.append(run.day)
        if run.error:
            shown.say(f"{run.day}: {run.error}")
        shown.day_done(outcome.made)
        if outcome.over:
            break
    shown.tell("Making the statistics")
    for report in work.report(with_spans):
        if report.failed:
            failed = {run.day for run in outcome.failed}
            outcome.failed += [
                DayRun(day, {}, report.failed) for day in report.days if day not in failed
            ]


@dataclass
class Outcome:
    """What has become of `days`, as far as they were taken.

    `results` is filled in by the runs, and right also for one that failed or was interrupted.
    """

    days: Sequence[str]
    loaders: Sequence[str]
    results: Results
    runs: int = 0
    failed: list[DayRun] = field(default_factory=list)
    in_a_row: int = 0
    interrupted: bool = False
    broken_by: PipelineError | None = None  # outside of a run: Dagster's records cannot be kept

    def add(self, run: DayRun) -> None:
        self.runs += 1
        if run.failed:
            self.failed.append(run)
            self.in_a_row += 1
        else:
            self.in_a_row = 0

    @property
    def over(self) -> bool:
        """Whether it makes no sense to go on."""
        return self.stopped_by is not None or self.in_a_row >= MOST_IN_A_ROW

    @property
    def stopped_by(self) -> DayRun | None:
        """The run whose failure all days share."""
        last = self.failed[-1:]
        kinds = [failed.kind for run in last for failed in run.failed if failed.kind]
        return last[0] if any(issubclass(kind, OF_EVERY_DAY) for kind in kinds) else None

    @property
    def made(self) -> str:
        builds = sum(one.stored for one in self.results.of("raw_builds", Extraction).values())
        transformed = self.results.of("spans", Transformation).values()
        spans = sum(one.summary.spans for one in transformed)
        return f"{counted(builds, 'new build')}, {counted(spans, 'span')} made"

    def sent(self, loader: str) -> Delivery:
        """What `loader` delivered, of all days together."""
        return sum(self.results.of(loader, Delivery).values(), Delivery())

    @property
    def remarks(self) -> list[str]:
        """What destinations had to say besides, with the days."""
        return [
            f"{day}: {remark}"
            for loader in self.loaders
            for day, one in self.results.of(loader, Delivery).items()
            for remark in one.warnings
        ]

    @property
    def may_pass(self) -> bool:
        """Whether nothing failed but what may succeed later."""
        kinds = [failed.kind for run in self.failed for failed in run.failed]
        return all(kind is not None and issubclass(kind, RetryableError) for kind in kinds)


@contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """Inside, a supervisor's SIGTERM stops as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _sum_up(outcome: Outcome, settings: Settings) -> None:
    done = outcome.runs - len(outcome.failed)
    echo(f"{done} of {counted(len(outcome.days), 'day')}: {outcome.made}.")
    summaries = [one.summary for one in outcome.results.of("spans", Transformation).values()]
    skipped = sum(one.skipped for one in summaries)
    for line in without_trace(skipped, sum(one.unfinished for one in summaries)):
        echo(line)
    sent = {loader: outcome.sent(loader) for loader in outcome.loaders}
    for loader, one in sent.items():
        echo(
            f"{loader}: {one.accepted:,} accepted, {one.rejected:,} rejected, "
            f"{one.too_old:,} too old."
        )
    if settings.markers:
        placed = outcome.results.of("honeycomb_markers", Placement).values()
        created, changed = (sum(one.created for one in placed), sum(one.changed for one in placed))
        echo(f"honeycomb_markers: {created:,} created, {changed:,} changed.")
    for remark in outcome.remarks[:REMARKS_SHOWN]:
        echo(remark)
    if any(one.rejected for one in sent.values()):
        echo("What was rejected is not sent again; bk-pipeline ledger shows the reasons.")
    for asset, one in sent.items():
        if one.too_old:
            echo(f"{asset}: {one.age_limit}")
    if not outcome.loaders:
        echo(NOWHERE, err=True)
    _list_failed(outcome)


def without_trace(skipped: int, unfinished: int) -> Iterator[str]:
    """Why there are fewer traces than builds."""
    if skipped:
        yield f"{skipped:,} skipped {'build has' if skipped == 1 else 'builds have'} no trace."
    if unfinished:
        have = "build has" if unfinished == 1 else "builds have"
        yield f"{unfinished:,} {have} not finished yet, and no trace until then."


def _conclude(outcome: Outcome) -> None:
    """Ends the program as the outcome wants it.

    Raises:
        PipelineError: What broke it off.
        RetryableError: All that failed may succeed later.
        FatalError: Some of it will not.
    """
    if outcome.interrupted:
        ahead = outcome.days[outcome.runs :]
        at = f"at {ahead[0]}" if ahead else "at the statistics"
        echo(
            f"bk-pipeline: Stopped {at}. What is stored and sent is kept: the same "
            "command goes on there.",
            err=True,
        )
        sys.exit(ON_INTERRUPT)
    if outcome.broken_by is not None:
        raise outcome.broken_by
    if not outcome.failed:
        return
    left = len(outcome.days) - outcome.runs
    ended = ""
    if left and outcome.stopped_by:
        ended = f" The other {left} would fail for the same reason, and were not tried."
    elif left:
        ended = f" {MOST_IN_A_ROW} in a row did, so the other {left} were not tried."
    kind = RetryableError if outcome.may_pass else FatalError
    raise kind(
        f"{len(outcome.failed)} of {counted(len(outcome.days), 'day')} failed.{ended} The same command "
        "takes up what is left."
    )


def _list_failed(outcome: Outcome) -> None:
    """The days that failed, by reason."""
    days: defaultdict[str, list[str]] = defaultdict(list)
    for run in outcome.failed:
        days[run.error or ""].append(run.day)
    for reason, those in days.items():
        echo(f"Failed: {', '.join(those)}: {reason}", err=True)


def _days(first: date, last: date, settings: Settings, app: App) -> list[str]:
    if last < first:
        raise ConfigError(f"--to {last} lies before --from {first}. Give the earlier day first.")
    if first < settings.start_date:
        raise ConfigError(
            f"--from {first} lies before the first day, {settings.start_date}. "
            "Set BK_PIPELINE_START_DATE to an earlier one."
        )
    today = day_key(app.clock.now(), settings.timezone)
    if last.isoformat() > today:
        raise ConfigError(f"--to {last} lies ahead; today is {today}. Give {today} or earlier.")
    return day_keys(first, last)
