"""The work of the measured processes of `extract`, `sync` and `day`: a day, or one step of it.

The plain functions of `pipeline/` with the objects that the Dagster assets hand them;
Dagster's own start-up is not in the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from benchmarks.measured import Work
from benchmarks.stand_in import KEY, settings_of
from bk_pipeline.app import App
from bk_pipeline.pipeline import Day, deliver_day, extract_day, transform_day
from bk_pipeline.settings import Settings
from bk_pipeline.window import Window

START = datetime.fromisoformat(KEY).replace(tzinfo=UTC)
DAY = Day(KEY, Window(START, START + timedelta(days=1)))

Counts = dict[str, float]


def extract(variables: str) -> Work:
    """Return the work of extracting what is new."""
    return _work(_extract, variables)


def transform(variables: str) -> Work:
    """Return the work of transforming it to spans."""
    return _work(_transform, variables)


def deliver(variables: str) -> Work:
    """Return the work of delivering them."""
    return _work(_deliver, variables)


def whole(variables: str) -> Work:
    """Return the work of all three steps, in one process."""

    def stages(app: App) -> Counts:
        return _extract(app) | _transform(app) | _deliver(app)

    return _work(stages, variables)


def _unheard(_: str) -> None:
    """Count waits instead of logging them: standard output carries the result."""


def _work(stage: Callable[[App], Counts], variables: str) -> Work:
    settings: Settings = settings_of(variables)
    return lambda: stage(App(settings))


def _extract(app: App) -> Counts:
    with app.buildkite(on_wait=_unheard) as client:
        found = extract_day(DAY, client=client, raw=app.raw(), clock=app.clock)
    return {
        "listed": found.listed,
        "stored": found.stored,
        "requests": found.usage.requests,
        "waited_s": found.usage.waited_s,
    }


def _transform(app: App) -> Counts:
    made = transform_day(
        KEY,
        raw=app.raw(),
        spans=app.spans(),
        privacy=app.privacy(),
        options=app.span_options(),
    )
    return {"spans": made.summary.spans, "builds": made.summary.builds}


def _deliver(app: App) -> Counts:
    accepted = 0
    with app.ledger() as ledger:
        for one in app.destinations():
            with app.destination(one) as destination:
                done = deliver_day(
                    KEY,
                    spans=app.spans(),
                    destination=destination,
                    ledger=ledger,
                    clock=app.clock,
                    policy=app.delivery_policy(),
                )
            accepted += done.accepted
    return {"accepted": accepted}
