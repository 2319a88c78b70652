"""`bk-pipeline backfill`: materialize days with Dagster, in this process."""

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

WARNINGS_SHOWN = 10
NO_DESTINATION = (
    "No destination is configured: spans were made and stored, but not sent. "
    "Set HONEYCOMB_API_KEY or OTEL_EXPORTER_OTLP_ENDPOINT."
)

# An error of these types fails every other day too.
AFFECTS_EVERY_DAY = (ConfigError, TokenRefused, AccessDenied, NotFound, StorageError)
# After this many consecutive failures the cause is not the days.
MAX_CONSECUTIVE_FAILURES = 3
EXIT_INTERRUPTED = 130


def backfill(first: date, last: date, full_refresh: bool, resend: bool) -> None:
    """Deliver days of builds from Buildkite to every configured destination."""
    settings = Settings.load()
    settings.require_buildkite()
    days = _days(first, last, settings, App(settings))
    console = Console(stderr=True)
    shown = shown_on(console, len(days))
    app = App(settings, retries=0, progress=shown.tell, on_wait=shown.wait)
    loaders = [one.asset for one in (*app.destinations(), *app.deployment_metrics())]
    outcome = Outcome(days, loaders, app.results)
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
    """Deliver the days, then make statistics of the days that have spans."""
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
    shown.tell("Making statistics")
    for report in work.report(with_spans):
        if report.failed:
            failed = {run.day for run in outcome.failed}
            outcome.failed += [
                DayRun(day, {}, report.failed) for day in report.days if day not in failed
            ]


@dataclass
class Outcome:
    """The progress and result of a backfill of `days`.

    The runs fill in `results`, which also covers runs that failed or were interrupted.
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
        """Record the result of a day's run."""
        self.runs += 1
        if run.failed:
            self.failed.append(run)
            self.in_a_row += 1
        else:
            self.in_a_row = 0

    @property
    def over(self) -> bool:
        """Whether to stop: every day would fail, or too many have failed in a row."""
        return self.stopped_by is not None or self.in_a_row >= MAX_CONSECUTIVE_FAILURES

    @property
    def stopped_by(self) -> DayRun | None:
        """The last failed run, if its error affects every day."""
        last = self.failed[-1:]
        kinds = [failed.kind for run in last for failed in run.failed if failed.kind]
        return last[0] if any(issubclass(kind, AFFECTS_EVERY_DAY) for kind in kinds) else None

    @property
    def made(self) -> str:
        """Builds stored and spans made so far, as text."""
        builds = sum(one.stored for one in self.results.of("raw_builds", Extraction).values())
        transformed = self.results.of("spans", Transformation).values()
        spans = sum(one.summary.spans for one in transformed)
        return f"{counted(builds, 'new build')}, {counted(spans, 'span')} made"

    def sent(self, loader: str) -> Delivery:
        """Return the total delivery of `loader` over all days."""
        return sum(self.results.of(loader, Delivery).values(), Delivery())

    @property
    def without_trace(self) -> list[str]:
        """Lines that explain why there are fewer traces than builds."""
        made = [one.summary for one in self.results.of("spans", Transformation).values()]
        unreadable = sum(len(one.quarantined) for one in made)
        for listing in self.results.of("raw_builds", Extraction).values():
            unreadable += len(listing.quarantined)
        return list(
            without_trace(
                skipped=sum(one.skipped for one in made),
                unfinished=sum(one.unfinished for one in made),
                unsettled=sum(one.held_back for one in made),
                unreadable=unreadable,
            )
        )

    @property
    def warnings(self) -> list[str]:
        """What was wrong with stored files, builds and deliveries, each with its day."""
        listings = self.results.of("raw_builds", Extraction)
        made = self.results.of("spans", Transformation)
        sent = [self.results.of(loader, Delivery) for loader in self.loaders]
        found = [
            *((day, [*one.damaged, *one.quarantined]) for day, one in listings.items()),
            *(
                (day, [*one.damaged, *map(str, one.summary.quarantined)])
                for day, one in made.items()
            ),
            *((day, one.warnings) for results in sent for day, one in results.items()),
        ]
        return [f"{day}: {message}" for day, messages in found for message in messages]

    @property
    def retryable(self) -> bool:
        """Whether all failures are retryable."""
        kinds = [failed.kind for run in self.failed for failed in run.failed]
        return all(kind is not None and issubclass(kind, RetryableError) for kind in kinds)


@contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C inside the block."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _sum_up(outcome: Outcome, settings: Settings) -> None:
    done = outcome.runs - len(outcome.failed)
    echo(f"{done} of {counted(len(outcome.days), 'day')}: {outcome.made}.")
    for line in outcome.without_trace:
        echo(line)
    sent = {loader: outcome.sent(loader) for loader in outcome.loaders}
    for loader, one in sent.items():
        echo(
            f"{loader}: {one.accepted:,} accepted, {one.rejected:,} rejected, "
            f"{one.too_old:,} too old."
        )
        if one.sampled_out:
            builds = counted(one.sampled_out_builds, "build")
            echo(f"{loader}: {counted(one.sampled_out, 'span')} of {builds} sampled out.")
    if settings.markers:
        placed = outcome.results.of("honeycomb_markers", Placement).values()
        created, changed = (sum(one.created for one in placed), sum(one.changed for one in placed))
        echo(f"honeycomb_markers: {created:,} created, {changed:,} changed.")
    for warning in outcome.warnings[:WARNINGS_SHOWN]:
        echo(warning)
    if any(one.rejected for one in sent.values()):
        echo("Rejected items are not sent again; bk-pipeline ledger rejected shows the reasons.")
    for asset, one in sent.items():
        if one.too_old:
            echo(f"{asset}: {one.age_limit}")
    if not outcome.loaders:
        echo(NO_DESTINATION, err=True)
    _list_failed(outcome)


def without_trace(
    *, skipped: int = 0, unfinished: int = 0, unsettled: int = 0, unreadable: int = 0
) -> Iterator[str]:
    """Yield lines that explain why there are fewer traces than builds."""
    for count, what, why in (
        (skipped, "skipped ", "no trace"),
        (unfinished, "", "not finished yet and no trace until then"),
        (unsettled, "", "not settled yet and no trace until then"),
        (unreadable, "unreadable ", "no trace"),
    ):
        if count:
            yield f"{count:,} {what}{'build has' if count == 1 else 'builds have'} {why}."


def _conclude(outcome: Outcome) -> None:
    """End the program according to the outcome.

    Raises:
        PipelineError: The error that stopped the backfill.
        RetryableError: Days failed, and all may succeed later.
        FatalError: At least one day failed for a permanent reason.
    """
    if outcome.interrupted:
        ahead = outcome.days[outcome.runs :]
        at = f"at {ahead[0]}" if ahead else "at the statistics"
        echo(
            f"bk-pipeline: Stopped {at}. What is stored and sent is kept: run the same "
            "command again to continue.",
            err=True,
        )
        sys.exit(EXIT_INTERRUPTED)
    if outcome.broken_by is not None:
        raise outcome.broken_by
    if not outcome.failed:
        return
    left = len(outcome.days) - outcome.runs
    ended = ""
    if left and outcome.stopped_by:
        ended = f" The other {left} would fail for the same reason and were not tried."
    elif left:
        ended = f" {MAX_CONSECUTIVE_FAILURES} failed in a row, so the other {left} were not tried."
    kind = RetryableError if outcome.retryable else FatalError
    raise kind(
        f"{len(outcome.failed)} of {counted(len(outcome.days), 'day')} failed.{ended} Run the same "
        "command again to process them."
    )


def _list_failed(outcome: Outcome) -> None:
    """Print the failed days, grouped by reason."""
    days: defaultdict[str, list[str]] = defaultdict(list)
    for run in outcome.failed:
        days[run.error or ""].append(run.day)
    for reason, those in days.items():
        echo(f"Failed: {', '.join(those)}: {reason}", err=True)


def _days(first: date, last: date, settings: Settings, app: App) -> list[str]:
    if last < first:
        raise ConfigError(f"--to {last} is before --from {first}. Give the earlier day first.")
    if first < settings.start_date:
        raise ConfigError(
            f"--from {first} is before the first day, {settings.start_date}. "
            "Set BK_PIPELINE_START_DATE to an earlier day."
        )
    today = day_key(app.clock.now(), settings.timezone)
    if last.isoformat() > today:
        raise ConfigError(
            f"--to {last} is in the future; today is {today}. Give {today} or an earlier day."
        )
    return day_keys(first, last)
